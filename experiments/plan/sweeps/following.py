"""Which of the runs that may follow are needed, by the results of the runs before them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.plan.sweeps.rates import is_needed

Row = Mapping[str, Any]  # experiments.plan.spec.RunRow, or more columns
_SWEEP = ("experiment", "model", "optimizer", "argument", "value")  # has one best learning rate


def sweep_of(row: Row) -> tuple[Any, ...]:
    """Return what the runs of one sweep over learning rates have in common."""
    return tuple(row[column] for column in _SWEEP)


def before(run: str, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of an experiment by whose results a run that may follow is decided."""
    found = []
    for row in rows:
        if row["run"] != run or not row["extension"]:
            continue
        side = 1 if row["extension"] > 0 else -1
        found += [
            other
            for other in rows
            if sweep_of(other) == sweep_of(row)
            and (other["extension"] == 0 or 0 < other["extension"] * side < row["extension"] * side)
        ]
    return found


def needed_rows(rows: Sequence[Row], loss_of: Callable[[str], float]) -> list[Row]:
    """Return the rows of a plan that are needed, in their order.

    Args:
        rows: whole sweeps of a plan.
        loss_of: returns the final loss of a run by its name; inf if it diverged, and NaN if it has
            no result.
    """
    sweeps = defaultdict(list)
    for row in rows:
        sweeps[sweep_of(row)].append(row)
    needed: dict[tuple[Any, int], bool] = {}
    for key, sweep in sweeps.items():
        if not any(row["extension"] for row in sweep):
            needed[key, 0] = True
            continue
        losses = defaultdict(list)
        for row in sweep:
            losses[row["lr"]].append(loss_of(row["run"]))
        rates = {(row["lr"], int(row["extension"])) for row in sweep}
        for _, extension in sorted(rates, key=lambda rate: abs(rate[1])):
            # The rate before it is needed, or there is none.
            step = 1 if extension > 0 else -1
            needed[key, extension] = extension == 0 or (
                needed.get((key, extension - step), False) and is_needed(extension, rates, losses)
            )
    return [row for row in rows if needed[sweep_of(row), int(row["extension"])]]
