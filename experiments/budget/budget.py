"""What a profile will cost on this machine, and what differences its seeds can show."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats
from tabulate import tabulate

from experiments.budget.calibration import CALIBRATION_FILE, Calibration, flops_per_token
from experiments.bundles.reference import Scatter, read_reference, scatter
from experiments.models.build import model_on_meta
from experiments.plan.spec import PlannedRun, RunSpec
from experiments.runs.folder import ResultsFolder

_LEVEL, _POWER = 0.05, 0.8  # of the test that a difference is to be shown by
_COLUMNS = ("model", "parameters", "runs", "may follow", "tokens", "FLOPs", "hours", "shows")


@dataclass(frozen=True)
class Budget:
    """The unfinished runs of a model.

    Args:
        model: name of the model.
        parameters: number of its parameters.
        runs: number of runs that are always trained.
        may_follow: number of runs at rates that may follow; they are not in the other numbers.
        tokens: tokens of all runs.
        flops: operations of forward and backward passes.
        hours: time on one device or core.
        is_timed: whether steps were timed, or the time follows from the speed of matrix products.
        shows: the smallest difference between two optimizers, in nats, that as many seeds as are
            planned show with 80 % power; None if the reference has no scatter of the model.
    """

    model: str
    parameters: int
    runs: int
    may_follow: int
    tokens: int
    flops: float
    hours: float
    is_timed: bool
    shows: float | None


def budgets(planned: Sequence[PlannedRun], results: ResultsFolder) -> list[Budget]:
    """Return the budget of each model, in the order of the profile.

    Args:
        planned: the runs of the profile.
        results: the folder `results/`; its finished runs cost nothing, its reference gives the
            scatter over seeds, and its calibration is reused or made.
    """
    certain = {run.spec.path for run in planned if not run.extension}
    specs = {run.spec.path: run.spec for run in planned}
    left = {path: spec for path, spec in specs.items() if not results.run(path).is_done}
    folders = {f"{spec.model_name}/{spec.optimizer.name}" for spec in specs.values()}
    known = scatter(read_reference(results.path / "reference", folders))
    by_model = defaultdict(list)
    for spec in specs.values():
        by_model[spec.model_name].append(spec)
    return [
        _budget(
            [spec for spec in of_model if spec.path in left and spec.path in certain],
            [spec for spec in of_model if spec.path in left and spec.path not in certain],
            of_model,
            known,
            Calibration(results.path / CALIBRATION_FILE),
        )
        for of_model in by_model.values()
    ]


def show(found: Sequence[Budget], at_once: int) -> str:
    """Return budgets as a table, and the sum of their hours.

    Args:
        found: the budgets.
        at_once: number of runs that this machine trains at the same time.
    """
    rows = [
        (
            each.model,
            f"{each.parameters:,}",
            each.runs,
            each.may_follow,
            f"{each.tokens:.3g}",
            f"{each.flops:.2g}",
            f"{'' if each.is_timed else '≈ '}{each.hours:.2g}",
            "" if each.shows is None else f"{each.shows:.3f} nats",
        )
        for each in found
    ]
    hours = sum(each.hours for each in found)
    lines = [
        tabulate(rows, headers=_COLUMNS, disable_numparse=True),
        f"{sum(each.runs for each in found)} runs are left; {hours:.2g} hours of one device or"
        f" core, {hours / at_once:.2g} hours with {at_once} runs at once",
    ]
    if any(each.shows is not None for each in found):
        lines.append(
            f"shows: a true difference between two optimizers at one learning rate that a test of"
            f" level {_LEVEL:.0%} finds with {_POWER:.0%} power, by the scatter of the reference"
        )
    return "\n\n".join(lines)


def shown_difference(known: Scatter, seeds: int) -> float:
    """Return the smallest true difference of two means over seeds that a test finds.

    It is (t_0.95 + t_0.8)·s·√(2/n), for a one-sided test of level 5 % with 80 % power.
    """
    df = max(known.df, 1)
    quantiles = float(stats.t.ppf(1 - _LEVEL, df) + stats.t.ppf(_POWER, df))
    return quantiles * known.deviation * math.sqrt(2 / seeds)


def _budget(
    certain: Sequence[RunSpec],
    others: Sequence[RunSpec],
    planned: Sequence[RunSpec],
    known: Mapping[tuple[str, ...], Scatter],
    calibration: Calibration,
) -> Budget:
    spec = planned[0]
    model, name = spec.model, spec.model_name
    per_token = flops_per_token(model, spec.training.context)
    tokens = sum(each.training.tokens for each in certain)
    taken, is_timed = calibration.seconds_per_token(spec) if certain else (0.0, True)
    seeds = len({each.seed for each in planned})
    return Budget(
        model=name,
        parameters=sum(tensor.numel() for tensor in model_on_meta(model).parameters()),
        runs=len(certain),
        may_follow=len(others),
        tokens=tokens,
        flops=tokens * per_token,
        hours=tokens * taken / 3600,
        is_timed=is_timed,
        shows=shown_difference(known[name,], seeds) if (name,) in known else None,
    )
