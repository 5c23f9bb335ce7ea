"""The gap of an optimizer to another at each size of a ladder, both at their own best rates."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimates.losses import is_sweep
from analysis.estimates.optimum import Noise, Optima, fit_optima
from analysis.estimates.statistics import Measured
from analysis.estimates.tokens import TokenRatio, token_slope

BASELINE = "adamw"
_LEAST_DF = 4  # of a size's own variance of the residuals
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

    The optima of a size come from one least-squares fit, in which a seed has the same effect on
    both optimizers. A size with few runs takes the variance of the residuals from all sizes.

    Args:
        runs: planned runs, with the columns of `analysis.frames.Results.runs`.
        optimizer: name of the optimizer.
        baseline: name of the one that it is compared with.
    """
    names = (optimizer, baseline)
    chosen = runs[is_sweep(runs) & (runs["rung"] > 0) & runs["optimizer"].isin(names)]
    chosen = chosen[chosen["argument"] == ""]
    models, fits = {}, {}
    for (_, model), of_model in chosen.sort_values("rung").groupby(["rung", "model"]):
        cells = dict(iter(of_model.groupby("optimizer")))
        fit = fit_optima(cells) if len(cells) == len(names) else None
        if fit:
            models[model], fits[model] = of_model, fit
    pooled = _pooled(fit.noise for fit in fits.values())
    for model, fit in fits.items():
        if fit.df < _LEAST_DF:
            fits[model] = fit_optima(dict(iter(models[model].groupby("optimizer"))), pooled)
    slopes = _slopes(runs, models, baseline)
    return [_rung(models[model], fit, names, slopes) for model, fit in fits.items()]


def label_of(runs: pd.DataFrame, optimizer: str) -> str:
    """Return the name of an optimizer in tables and figures."""
    labels = runs.loc[runs["optimizer"] == optimizer, "label"]
    return labels.iloc[0] if len(labels) else optimizer


def _pooled(noises: Iterable[Noise]) -> Noise:
    known = [noise for noise in noises if noise.variance == noise.variance]  # not NaN
    df = sum(noise.df for noise in known)
    squares = sum(noise.variance * noise.df for noise in known)
    return Noise(squares / df if df else math.nan, df)


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
    runs: pd.DataFrame,
    optima: Optima,
    names: tuple[str, str],
    slopes: Mapping[float, Measured],
) -> Rung:
    own = {name: optima.cells[name] for name in names}
    parameters = float(runs["parameters"].max())
    return Rung(
        runs["model"].iloc[0],
        parameters,
        float(runs["tokens"].max()),
        {name: optimum.loss for name, optimum in own.items()},
        {name: optimum.log2_lr for name, optimum in own.items()},
        {name: optimum.is_inside for name, optimum in own.items()},
        optima.difference({names[0]: 1, names[1]: -1}),
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
