"""The verdicts on the paper's claims."""
