"""Trains the runs: profiles, corpora, models, optimizers, training, launchers and studies."""
