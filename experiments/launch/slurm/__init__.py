"""Launching runs as jobs of SLURM."""
