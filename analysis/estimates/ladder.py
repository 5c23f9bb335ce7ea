"""The gap of an optimizer to another at each size of a ladder, both at their own best rates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimates.losses import is_sweep
from analysis.estimates.optimum import Optima, fit_optima
from analysis.estimates.statistics import Measured
from analysis.estimates.tokens import TokenRatio, token_slope

BASELINE = "adamw"
COMPARED = ("powerstep", "powerstep-int8")  # optimizers whose gap to the baseline is followed


@dataclass(frozen=True)
class Rung:
    """One size of a ladder.

    Args:
        model: its name.
        parameters: number of its parameters.
        tokens: number of tokens that it was trained on.
        losses: fitted lowest loss by optimizer, nats per token.
        log2_lrs: log2 of the best learning rate by optimizer.
        inside: whether the best rate is inside the sweep, by optimizer.
        gap: loss of the optimizer minus that of the baseline, nats per token.
        slope: s = -dL/d ln(tokens) of the baseline, interpolated between the sizes at which it was
            measured; None if it was nowhere.
        bytes_per_token: of the validation text.
    """

    model: str
    parameters: float
    tokens: float
    losses: Mapping[str, Measured]
    log2_lrs: Mapping[str, Measured]
    inside: Mapping[str, bool]
    gap: Measured
    slope: Measured | None
    bytes_per_token: float

    @property
    def ratio(self) -> TokenRatio | None:
        """Return the ratio of tokens that the gap stands for."""
        return TokenRatio(self.gap, self.slope) if self.slope else None


def ladder(runs: pd.DataFrame, optimizer: str, baseline: str = BASELINE) -> list[Rung]:
    """Return the sizes at which both optimizers have a fitted optimum, in their order.

    The optima of all sizes come from one least-squares fit, in which the seeds of a size have
    common effects. The variance of the residuals is common to all sizes, since large models have
    too few runs to estimate their own.

    Args:
        runs: planned runs, with the columns of `analysis.frames.Results.runs`.
        optimizer: name of the optimizer.
        baseline: name of the one that it is compared with.
    """
    names = (optimizer, baseline)
    chosen = runs[is_sweep(runs) & (runs["rung"] > 0) & runs["optimizer"].isin(names)]
    chosen = chosen[chosen["argument"] == ""]
    cells, models = {}, {}
    for (_, model), of_model in chosen.sort_values("rung").groupby(["rung", "model"]):
        own = {(model, name): cell for name, cell in of_model.groupby("optimizer")}
        if len(own) == len(names) and _fits(own):
            cells |= own
            models[model] = of_model
    optima = _fit(cells) if cells else None
    if optima is None:
        return []
    slopes = _slopes(runs, models, baseline)
    return [_rung(model, of_model, optima, names, slopes) for model, of_model in models.items()]


def label_of(runs: pd.DataFrame, optimizer: str) -> str:
    """Return the name of an optimizer in tables and figures."""
    labels = runs.loc[runs["optimizer"] == optimizer, "label"]
    return labels.iloc[0] if len(labels) else optimizer


_Cell = tuple[str, str]  # model and optimizer


def _fits(cells: Mapping[_Cell, pd.DataFrame]) -> bool:
    return _fit(cells) is not None


def _fit(cells: Mapping[_Cell, pd.DataFrame]) -> Optima | None:
    named = {"/".join(cell): runs for cell, runs in cells.items()}
    return fit_optima(named, {"/".join(cell): cell[0] for cell in cells})


def _slopes(
    runs: pd.DataFrame, models: Mapping[str, pd.DataFrame], baseline: str
) -> dict[float, Measured]:
    """Return the measured slopes of the baseline's loss over tokens by log10(parameters)."""
    found = {}
    of_baseline = runs[runs["optimizer"] == baseline]
    lengths = of_baseline[
        (is_sweep(of_baseline) & (of_baseline["argument"] == ""))
        | (of_baseline["argument"] == "training.steps")
    ]
    for model, of_model in models.items():
        slope = token_slope(lengths[lengths["model"] == model].drop_duplicates("run"))
        if slope is not None:
            found[float(np.log10(of_model["parameters"].max()))] = slope
    return found


def _rung(
    model: str,
    runs: pd.DataFrame,
    optima: Optima,
    names: tuple[str, str],
    slopes: Mapping[float, Measured],
) -> Rung:
    own = {name: optima.cells[f"{model}/{name}"] for name in names}
    parameters = float(runs["parameters"].max())
    return Rung(
        model,
        parameters,
        float(runs["tokens"].max()),
        {name: optimum.loss for name, optimum in own.items()},
        {name: optimum.log2_lr for name, optimum in own.items()},
        {name: optimum.is_inside for name, optimum in own.items()},
        optima.difference({f"{model}/{names[0]}": 1, f"{model}/{names[1]}": -1}),
        _interpolated(slopes, float(np.log10(parameters))),
        float(runs["bytes_per_token"].max()),
    )


def _interpolated(slopes: Mapping[float, Measured], at: float) -> Measured | None:
    """Interpolate a slope and its error linearly; beyond the measured sizes they are constant."""
    if not slopes:
        return None
    sizes = sorted(slopes)
    values, errors = (
        float(np.interp(at, sizes, [getattr(slopes[size], name) for size in sizes]))
        for name in ("value", "error")
    )
    return Measured(values, errors, min(slope.df for slope in slopes.values()))
