"""Launching runs as SLURM jobs."""
