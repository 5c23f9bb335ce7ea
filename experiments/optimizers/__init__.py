"""From an entry of optimizers.yaml to an optimizer of a model's parameters."""
