"""Launching runs, on this machine or on a SLURM cluster, and showing their status."""
