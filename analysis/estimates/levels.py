"""The losses of a unigram and of a bigram model, between which a model begins to learn."""

import pandas as pd

# A model has learned if its loss has come this fraction of the way from the cross-entropy of a
# unigram model to that of a bigram model. Before that, losses tell how soon the plateau of token
# frequencies is left, and not which optimizer trains a language model better.
LEARNED = 0.75


def levels(runs: pd.DataFrame) -> dict[str, float]:
    """Return the loss of the "unigram" and of the "bigram" model in nats per token; NaN if unknown.

    If the runs differ in length, they are those of the longest runs, which are the lowest.

    Args:
        runs: runs on one corpus, with the columns unigram_loss and bigram_loss of the plan.
    """
    return {name: runs[f"{name}_loss"].astype(float).min() for name in ("unigram", "bigram")}


def learned_level(runs: pd.DataFrame) -> float:
    """Return the loss at or below which a model has learned, in nats per token; NaN if unknown."""
    unigram, bigram = levels(runs).values()
    return unigram - LEARNED * (unigram - bigram)
