"""The claims of the paper, and a verdict on each."""
