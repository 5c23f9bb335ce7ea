"""Checks how a class of optimizers behaves, before anybody compares it with others."""
