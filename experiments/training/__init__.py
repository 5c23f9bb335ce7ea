"""Training one run with Lightning: steps, validation, checkpoints, processes."""
