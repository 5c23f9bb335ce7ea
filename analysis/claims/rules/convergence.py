"""Rules on the convergence of exact updates, from the synthetic study."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.claims.definitions import Question
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Finding
from analysis.frames import Results, read_table

_BETA = 0.1
_EXPONENT = 2.0  # of σ in the floor
_PROTOCOL = "η/√t, exact updates, β = 0.1, skewed noise"


def converges_without_floor(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the squared gradient norm falls as 1/√T whatever the noise (version 1)."""
    rule = (
        "Not supported if under skewed noise the 95 % interval of the fitted floor lies above 0"
        " where the stationary point of the update, in closed form, has a floor too. Supported if"
        " at every fitted noise level the 95 % interval of the slope of logarithms lies at or below"
        " -1/2. Inconclusive otherwise."
    )
    fits = _fitted(results)
    if fits.empty:
        yield Finding(measured="no curve under noise could be fitted", rule=rule)
        return
    has_floor = (fits["floor_low"] > 0) & (fits["predicted_floor"] > 0)
    falls = (fits["slope_high"] <= -0.5).all()
    row = fits.iloc[-1]
    yield Finding(
        NOT_SUPPORTED if has_floor.any() else SUPPORTED if falls else INCONCLUSIVE,
        _floors(fits) + "; slopes " + ", ".join(f"{slope:.2f}" for slope in fits["slope"]),
        _PROTOCOL,
        f"synthetic non-convex problem, {row['steps']:,} steps",
        row["floor"],
        row["floor_low"],
        row["floor_high"],
        n=int(row["seeds"]),
        rule=rule,
    )


def converges_to_noise_floor(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the residual comes from the noise, and is the predicted one (version 2).

    `margin` is the tolerance of the exponent of σ. `options: {no_floor: …}` is the fraction of its
    start below which a curve without noise has no floor.
    """
    no_floor, tolerance = question.options["no_floor"], question.margin
    rule = (
        f"Supported if without noise the last value is below {no_floor:g} of the first, the floor"
        f" under skewed noise grows as σ to the power {_EXPONENT:g} ± {tolerance:g}, and its 95 %"
        " interval contains the floor predicted in closed form, at every fitted noise level. Not"
        f" supported if there is a floor without noise. Inconclusive otherwise. {question.reason}"
    )
    fits, exact = _fitted(results), _of_beta(results, sigma=0.0)
    if fits.empty or exact.empty:
        yield Finding(measured="no curve could be fitted", rule=rule)
        return
    left = (exact["last"] / exact["start"]).max()
    agrees = fits["predicted_floor"].between(fits["floor_low"], fits["floor_high"]).all()
    exponent = math.nan
    if len(fits) > 1 and (fits["floor"] > 0).all():
        exponent = float(np.polyfit(np.log(fits["sigma"]), np.log(fits["floor"]), 1)[0])
    scales = abs(exponent - _EXPONENT) <= tolerance
    verdict = SUPPORTED if agrees and scales else INCONCLUSIVE
    yield Finding(
        NOT_SUPPORTED if left >= no_floor else verdict,
        f"without noise (one run) down to {left:.1g} of the start; {_floors(fits)}; floor ∝"
        f" σ^{exponent:.2f}",
        _PROTOCOL,
        f"synthetic non-convex problem, {fits['steps'].iloc[0]:,} steps",
        exponent,
        n=int(fits["seeds"].iloc[0]),
        rule=rule,
    )


def _of_beta(results: Results, **equal: object) -> pd.DataFrame:
    fits = read_table(results.folder / "convergence_fits.csv")
    fits = fits[np.isclose(fits["beta"], _BETA)]
    for column, value in equal.items():
        fits = fits[fits[column] == value]
    return fits


def _fitted(results: Results) -> pd.DataFrame:
    """Return the fits of curves under skewed noise, by rising σ; curves too short have none."""
    fits = _of_beta(results, noise="skewed")
    return fits[(fits["sigma"] > 0) & fits["floor_low"].notna()].sort_values("sigma")


def _floors(fits: pd.DataFrame) -> str:
    return "floor " + ", ".join(
        f"{row.floor:.3g} [{row.floor_low:.3g}, {row.floor_high:.3g}] at σ = {row.sigma:g}"
        f" (predicted {row.predicted_floor:.3g})"
        for row in fits.itertuples()
    )
