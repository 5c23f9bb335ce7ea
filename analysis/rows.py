"""Selecting rows of a plan. It imports no pandas, so that planning is fast."""

from typing import Any

Row = dict[str, Any]  # experiments.plan.spec.PlannedRun.row


def with_sweep(plan: list[Row], *experiments: str) -> list[Row]:
    """Return the rows of experiments, and the learning-rate sweeps of their optimizers."""
    rows = [row for row in plan if row["experiment"] in experiments]
    pairs = {(row["model"], row["optimizer"]) for row in rows}
    sweep = where(plan, experiment="learning_rate")
    return rows + [row for row in sweep if (row["model"], row["optimizer"]) in pairs]


def where(rows: list[Row], **equal: str) -> list[Row]:
    """Return the rows in which each named column has the given value."""
    return [row for row in rows if all(row[key] == value for key, value in equal.items())]


def unique(rows: list[Row], key: str) -> list[Any]:
    """Return the distinct values of a column, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))


def by(rows: list[Row], key: str) -> list[tuple[Any, list[Row]]]:
    """Return the rows for each value of a column, in the order of the values."""
    return [(value, where(rows, **{key: value})) for value in unique(rows, key)]
