"""Studies: measurements for which no language model is trained."""
