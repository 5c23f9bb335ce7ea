"""Measurements that train no language model."""
