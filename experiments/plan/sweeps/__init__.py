"""Sweeps over learning rates: their rates, those that may follow, and the ladder of sizes."""
