"""Agreement of runs with the committed reference, cell by cell."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from experiments.bundles.bundle import SUFFIX
from experiments.files import read_object
from experiments.runs.summary import ENDED

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
    own = runs[runs["status"].isin(ENDED)].drop_duplicates("run")
    own = own[own["restored_from"].isna()]
    folders = {Path(run).parent for run in own["run"]}
    found = [
        (path, read_object(path) or {})
        for folder in folders
        for path in reference.glob(f"*/bundles/{folder.as_posix()}/*{SUFFIX}")
    ]
    keys = {path.stem: _without_seed(bundle) for path, bundle in found if "spec" in bundle}
    there = defaultdict(dict)
    for path, bundle in found:
        if "spec" in bundle:
            there[keys[path.stem]][path.stem] = _loss(bundle["summary"]["final_val_loss"])
    here = defaultdict(list)
    for row in own.itertuples():
        if key := keys.get(Path(row.run).name):
            here[key].append(row)
    scatter = _scatter(there)
    cells = [_cell(rows, [*there[key].values()], scatter) for key, rows in here.items()]
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


_Key = tuple[str, str, str]  # model, optimizer, and the rest of the spec without the seed


def _without_seed(bundle: dict) -> _Key:
    spec = {name: value for name, value in bundle["spec"].items() if name != "seed"}
    return spec["model_name"], spec["optimizer"]["name"], json.dumps(spec, sort_keys=True)


def _loss(loss: float | None) -> float:
    return math.inf if loss is None or math.isnan(loss) else loss


def _scatter(cells: dict[_Key, dict[str, float]]) -> dict[tuple[str, ...], tuple[float, int]]:
    """Return standard deviation and degrees of freedom, by model, and by model and optimizer."""
    squares: dict[tuple[str, ...], float] = defaultdict(float)
    df: dict[tuple[str, ...], int] = defaultdict(int)
    for (model, optimizer, _), by_run in cells.items():
        losses = np.array([loss for loss in by_run.values() if math.isfinite(loss)])
        for key in ((model,), (model, optimizer)):
            if len(losses) > 1:
                squares[key] += float(((losses - losses.mean()) ** 2).sum())
                df[key] += len(losses) - 1
    return {key: (math.sqrt(squares[key] / df[key]), df[key]) for key in df}


def _cell(rows: list, there: list[float], scatter: dict) -> Cell:
    first = rows[0]
    own = scatter.get((first.model, first.optimizer), scatter.get((first.model,)))
    deviation, df = own or (math.nan, 1)
    half = stats.t.ppf((1 + _LEVEL) / 2, df) * deviation
    half *= math.sqrt(1 / len(rows) + 1 / len(there))
    name = f"{first.label} on {first.model} at lr {first.lr:g}"
    return Cell(name, _mean(_loss(row.final_val_loss) for row in rows), _mean(there), float(half))


def _mean(losses: Iterable[float]) -> float:
    return float(np.mean([*losses]))
