"""The rules by which measurements decide on claims.

A rule takes the results and a Question of claims.yaml, and yields a Finding for each model that has
runs for it, the largest model first.
"""
