"""The report names the models below and above the bigram level, and those that have not learned."""

import pandas as pd

from analysis.report import _learning
from tests.analysis.made_up import run


def test_models_are_named_by_their_lowest_loss():
    # The bigram level is 4.0, and a model has learned at 4.5.
    losses = {"good": (3.5, 9.0), "fair": (4.2, 5.0), "poor": (5.0, 6.0)}
    runs = [run("adamw", loss, model=model) for model, both in losses.items() for loss in both]
    runs.append(run("adamw", 3.0, model="unknown", unigram_loss=float("nan")))
    runs[-1]["bigram_loss"] = float("nan")
    assert _learning(pd.DataFrame(runs)) == [
        "models whose lowest loss is below that of a bigram model: good (3.50, bigram 4.00)",
        "models whose lowest loss is above that of a bigram model: fair (4.20, bigram 4.00)",
        "models whose lowest loss is above that of a bigram model, so their losses decide nothing:"
        " poor (5.00, bigram 4.00)",
    ]
