"""Bundles: finished runs as small files that travel, are verified, and are restored elsewhere."""
