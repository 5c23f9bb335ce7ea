"""Launching runs, here or on a cluster, and showing how far each one is."""
