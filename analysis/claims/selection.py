"""Selecting the runs that a question compares, and whether their models have learned."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims.definitions import Cell, Question
from analysis.claims.verdicts import NOT_TESTED, Finding
from analysis.text import number

# A model has learned if its loss has come this fraction of the way from the cross-entropy of a
# unigram model to that of a bigram model. Before that, losses tell how soon the plateau of token
# frequencies is left, and not which optimizer trains a language model better.
LEARNED = 0.75


_ONCE = ["model", "optimizer", "argument", "value", "lr", "seed", "planned_steps"]


@dataclass(frozen=True)
class Compared:
    """The runs of one model that a question compares, each run once.

    Args:
        model: name of the model.
        a: runs of the question's cell `a`.
        b: runs of each cell of its `b`.
        scale: the model's size and the length of its training, as text.
    """

    model: str
    a: pd.DataFrame
    b: tuple[pd.DataFrame, ...]
    scale: str

    @property
    def runs(self) -> pd.DataFrame:
        """All of them."""
        return pd.concat([self.a, *self.b])


def each_model(runs: pd.DataFrame, question: Question) -> Iterator[Compared]:
    """Yield what a question compares, for each model with runs of all its cells.

    The largest model comes first; with equal sizes, the one of the longest training.
    """
    found = []
    for model in runs["model"].unique():
        of_model = where(runs, model=model)
        a, *b = (runs_of(of_model, cell) for cell in (question.a, *question.b))
        if not any(cell.empty for cell in (a, *b)):
            found.append(Compared(model, a, tuple(b), scale(of_model)))
    yield from sorted(found, key=lambda each: -_size(each.runs))


def runs_of(runs: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Return the runs that a cell selects, each once; one that also logs more counts as the same.

    A key that is no column is an argument of the optimizer, or `training.<setting>`, and its value.
    Without such a key, only runs count that vary none.
    """
    columns = {name: value for name, value in cell.items() if name in runs}
    frame = where(runs, **columns)
    varied = {name: value for name, value in cell.items() if name not in runs}
    if not varied and "argument" not in cell:
        frame = where(frame, argument="")
    for argument, value in varied.items():
        frame = where(frame, argument=argument)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        given = pd.to_numeric(frame["value"], errors="coerce") if is_number else frame["value"]
        frame = frame[given == (value if is_number else str(value))]
    return frame.drop_duplicates(_ONCE)


def where(frame: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """Return the rows in which each named column has the given value."""
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    return frame


def scale(runs: pd.DataFrame) -> str:
    """Return the size of a model and the length of its training, as text."""
    model, size, steps = runs["model"].iloc[0], _size(runs), runs["planned_steps"].mode().iloc[0]
    parts = [model, *([f"{size / 1e6:.3g}M"] if size else []), f"{steps:,} steps"]
    return ", ".join(parts)


def levels(runs: pd.DataFrame) -> tuple[float, float]:
    """Return the losses of the unigram and the bigram model in nats per token; NaN if unknown."""
    known = runs.dropna(subset=["unigram_loss", "bigram_loss"])
    if known.empty:
        return math.nan, math.nan
    return float(known["unigram_loss"].iloc[0]), float(known["bigram_loss"].iloc[0])


def learned_level(runs: pd.DataFrame) -> float:
    """Return the loss at or below which a model has learned, in nats per token; NaN if unknown."""
    unigram, bigram = levels(runs)
    return unigram - LEARNED * (unigram - bigram)


def unless_learned(finding: Finding, runs: pd.DataFrame, *losses: float) -> Finding:
    """Return a finding on losses, not tested if not even the lowest loss shows learning.

    Args:
        finding: the finding.
        runs: the compared runs, which have the levels.
        losses: the mean losses of both sides, in nats per token; NaN for an unknown one.
    """
    lowest = min((loss for loss in losses if not math.isnan(loss)), default=math.nan)
    limit = learned_level(runs)
    if lowest <= limit:
        return finding
    known = not math.isnan(limit)
    reason = f"not learned, {lowest:.2f} > {limit:.2f}" if known else "levels of n-grams unknown"
    return replace(finding, verdict=NOT_TESTED, measured=f"{finding.measured}; {reason}")


def rates(runs: pd.DataFrame) -> str:
    """Return the learning rates of runs, as text."""
    return "lr " + ", ".join(number(lr) for lr in sorted(runs["lr"].unique()))


def _size(runs: pd.DataFrame) -> float:
    size = runs["parameters"].astype(float).max()
    return 0.0 if math.isnan(size) else size
