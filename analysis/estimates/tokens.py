"""Differences of losses as ratios of tokens."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimates.optimum import fit_optima
from analysis.estimates.statistics import Measured, exp, ratio_interval


@dataclass(frozen=True)
class TokenRatio:
    """The tokens that optimizer b needs for a's final loss, over those that a was given.

    It is ρ = exp(-gap / slope): above 1, a needs fewer tokens than b for the same loss.

    Args:
        gap: lowest loss of a minus that of b, in nats per token.
        slope: s = -dL/d ln(tokens), in nats per token.
    """

    gap: Measured
    slope: Measured

    @property
    def value(self) -> float:
        """Return ρ."""
        return exp(-self.gap.value / self.slope.value)

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval of ρ of a level, by Fieller's method; NaN if the slope may be 0."""
        low, high = ratio_interval(self.gap, self.slope, level)
        return exp(-high), exp(-low)

    def p_above(self, bound: float) -> float:
        """Return the p-value of the one-sided test that ρ is above a bound."""
        return self.gap.plus(self.slope.scaled(math.log(bound))).p_below(0)

    def p_below(self, bound: float) -> float:
        """Return the p-value of the one-sided test that ρ is below a bound."""
        return self.gap.plus(self.slope.scaled(math.log(bound))).p_above(0)


def token_slope(runs: pd.DataFrame) -> Measured | None:
    """Return s = -dL/d ln(tokens) of an optimizer, each length of training at its own best rate.

    Args:
        runs: runs of one model and optimizer that differ in planned_steps, lr and seed alone.

    Returns:
        The slope of a line through the lowest losses, in nats per token; None with fewer than two
        lengths of training.
    """
    cells = {f"{steps}": cell for steps, cell in runs.groupby("planned_steps")}
    optima = fit_optima(cells) if len(cells) > 1 else None
    if optima is None:
        return None
    log = np.log([float(steps) for steps in optima.cells])
    centred = log - log.mean()
    weights = -centred / (centred @ centred)
    return optima.difference(dict(zip(optima.cells, weights, strict=True)))
