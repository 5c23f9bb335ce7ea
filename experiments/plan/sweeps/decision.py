"""The decision whether an experiment needs a run that may follow, kept as a file."""

import json
from collections.abc import Callable
from pathlib import Path

from experiments.files import atomic, read_object
from experiments.plan.files import read_rates
from experiments.plan.sweeps.following import needed_rows


def decide(plan: Path, experiment: str, run: str, loss_of: Callable[[str], float]) -> bool:
    """Return whether an experiment needs a run, by the results so far.

    Args:
        plan: CSV file of the plan.
        experiment: name of the experiment.
        run: RunSpec.path.
        loss_of: returns the final loss of a run; inf if it diverged, NaN if it has no result.
    """
    rows = [row for row in read_rates(plan) if row["experiment"] == experiment]
    return any(row["run"] == run for row in needed_rows(rows, loss_of))


def write_decision(path: Path, is_needed: bool) -> None:
    """Write a decision.

    Raises:
        FileError: the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({"needed": is_needed}) + "\n", encoding="utf-8")


def read_decision(path: Path) -> bool | None:
    """Return a decision; None if there is none yet."""
    return (read_object(path) or {}).get("needed")
