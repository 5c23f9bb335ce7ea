"""Selecting the runs that a question compares, and whether their models have learned."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims.definitions import Cell, Question
from analysis.claims.verdicts import INTERVAL, NOT_TESTED, Finding
from analysis.estimates.levels import learned_level
from analysis.estimates.statistics import Measured
from analysis.text import number

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

    The largest model comes first.
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
    return replace(finding.adding(reason), verdict=NOT_TESTED)


def in_nats(mean: Measured) -> str:
    """Return a difference of losses as text, with its interval if there is one."""
    low, high = mean.interval(INTERVAL)
    return f"{mean.value:+.3f} nats" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]")


def rates(runs: pd.DataFrame) -> str:
    """Return the learning rates of runs, as text."""
    return "lr " + ", ".join(number(lr) for lr in sorted(runs["lr"].unique()))


def _size(runs: pd.DataFrame) -> float:
    size = runs["parameters"].astype(float).max()
    return 0.0 if math.isnan(size) else size
