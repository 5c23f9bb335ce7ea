"""What is run: the configuration, the grid it spans, the data, the models and the training."""
