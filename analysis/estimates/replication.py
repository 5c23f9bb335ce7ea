"""Agreement of runs with the committed reference, cell by cell."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from experiments.bundles.reference import Scatter, read_reference, scatter
from experiments.runs.summary import ENDED, Status

_LEVEL = 0.95  # of the prediction intervals


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seeds alone, here and in the reference.

    Args:
        name: model, optimizer and learning rate.
        here: mean final loss of the runs here, nats per token; inf if one diverged.
        there: that of the reference.
        half_width: of the prediction interval of their difference; NaN if no reference cell of the
            model has two seeds.
    """

    name: str
    here: float
    there: float
    half_width: float

    @property
    def agrees(self) -> bool:
        """Return whether the difference is within its prediction interval, or both diverged."""
        if math.isinf(self.here) or math.isinf(self.there):
            return self.here == self.there
        return abs(self.here - self.there) <= self.half_width


def replication(runs: pd.DataFrame, reference: Path) -> list[Cell]:
    """Compare the runs that were trained here with the reference's.

    The interval of the difference of two means of n1 and n2 runs is ± t·s·√(1/n1 + 1/n2), where s
    is the standard deviation over seeds, pooled over the reference's cells of the same model and
    optimizer, or of the same model if none of those has two seeds.

    Args:
        runs: planned runs, with the columns of `analysis.frames.Results.runs`.
        reference: results/reference, with bundles in its folders `<profile>/bundles`.

    Returns:
        The cells that have runs here and in the reference, and a known scatter.
    """
    own = runs[runs["status"].isin(ENDED) & runs["restored_from"].isna()].drop_duplicates("run")
    folders = [f"{row.model}/{row.optimizer}" for row in own.itertuples()]
    there = read_reference(reference, folders)
    cell_of = {run.run: run.cell for run in there}
    here = defaultdict(list)
    for row in own.itertuples():
        if row.run in cell_of:
            here[cell_of[row.run]].append(row)
    known = scatter(there)
    cells = [
        _cell(rows, [run.loss for run in there if run.cell == cell], known)
        for cell, rows in here.items()
    ]
    return [cell for cell in cells if not math.isnan(cell.half_width)]


def replication_line(cells: list[Cell]) -> str:
    """Return how many cells agree, and which do not; "" without cells."""
    if not cells:
        return ""
    agreeing = sum(cell.agrees for cell in cells)
    others = [
        f"{cell.name} ({cell.here:.3f} here, {cell.there:.3f} there, ± {cell.half_width:.3f})"
        for cell in cells
        if not cell.agrees
    ]
    said = f"replication: {agreeing} of {len(cells)} cells agree with the committed reference"
    return said + (f"; not: {', '.join(others)}" if others else "")


def _cell(rows: list, there: list[float], known: Mapping[tuple[str, ...], Scatter]) -> Cell:
    first = rows[0]
    own = known.get((first.model, first.optimizer), known.get((first.model,)))
    half = math.nan
    if own:
        half = float(stats.t.ppf((1 + _LEVEL) / 2, own.df)) * own.deviation
        half *= math.sqrt(1 / len(rows) + 1 / len(there))
    name = f"{first.label} on {first.model} at lr {first.lr:g}"
    here = [math.inf if row.status == Status.DIVERGED else row.final_val_loss for row in rows]
    return Cell(name, float(np.mean(here)), float(np.mean(there)), half)
