"""The language models: their settings and how they are built."""
