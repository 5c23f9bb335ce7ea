"""The committed reference: final losses of its bundles, and their scatter over seeds."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import variance
from typing import Any

from experiments.bundles.bundle import SUFFIX
from experiments.files import read_object


@dataclass(frozen=True)
class ReferenceRun:
    """The result of a bundle.

    Args:
        run: RunSpec.path.
        model: name of the model.
        optimizer: name of the optimizer.
        cell: the spec without the seed, as JSON; runs of a cell differ in their seeds alone.
        loss: final validation loss, nats per token; inf if the run diverged.
    """

    run: str
    model: str
    optimizer: str
    cell: str
    loss: float


@dataclass(frozen=True)
class Scatter:
    """The standard deviation of final losses over seeds, and its degrees of freedom."""

    deviation: float
    df: int


def read_reference(reference: Path, folders: Iterable[str]) -> list[ReferenceRun]:
    """Read the bundles of some models and optimizers.

    Args:
        reference: results/reference, with bundles in its folders `<profile>/bundles`.
        folders: "<model>/<optimizer>", as RunSpec.path begins.
    """
    paths = [
        path
        for folder in dict.fromkeys(folders)
        for path in sorted(reference.glob(f"*/bundles/{folder}/*{SUFFIX}"))
    ]
    found = ((path, read_object(path) or {}) for path in paths)
    return [_run(path, bundle) for path, bundle in found if {"spec", "summary"} <= {*bundle}]


def scatter(runs: Iterable[ReferenceRun]) -> dict[tuple[str, ...], Scatter]:
    """Return the scatter over seeds, pooled over cells, by (model,) and by (model, optimizer).

    Diverged runs are left out; cells with fewer than two other runs say nothing.
    """
    cells = defaultdict(list)
    for run in runs:
        if math.isfinite(run.loss):
            cells[run.model, run.optimizer, run.cell].append(run.loss)
    squares: dict[tuple[str, ...], float] = defaultdict(float)
    df: dict[tuple[str, ...], int] = defaultdict(int)
    for (model, optimizer, _), losses in cells.items():
        for key in ((model,), (model, optimizer)):
            if len(losses) > 1:
                squares[key] += variance(losses) * (len(losses) - 1)
                df[key] += len(losses) - 1
    return {key: Scatter(math.sqrt(squares[key] / df[key]), df[key]) for key in df}


def _run(path: Path, bundle: dict[str, Any]) -> ReferenceRun:
    spec = {name: value for name, value in bundle["spec"].items() if name != "seed"}
    loss = bundle["summary"]["final_val_loss"]
    return ReferenceRun(
        "/".join(path.with_suffix("").parts[-3:]),
        spec["model_name"],
        spec["optimizer"]["name"],
        json.dumps(spec, sort_keys=True),
        math.inf if loss is None else loss,
    )
