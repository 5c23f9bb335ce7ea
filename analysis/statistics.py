"""Means, confidence intervals and tests over seeds."""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from experiments.intervals import t_interval

# Nats per token. PowerStep's largest excess over AdamW in the paper (table 4, Qwen3-8B).
MARGIN = 0.028


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and the half-width of its 95 % interval, NaN for a single seed."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, sign: str) -> str:
        """Return the mean as text, with its sign if `sign` is "+", and the interval if any."""
        mean = format(self.mean, f"{sign}.3f")
        return mean if self.n < 2 else f"{mean} ± {self.half_width:.3f}"


def estimate(values: pd.Series) -> Estimate:
    """Return the mean of independent values with its 95 % interval by Student's t.

    Args:
        values: one value for each seed, none missing.
    """
    mean, half_width = t_interval(values)
    return Estimate(float(mean), float(half_width), len(values))


@dataclass(frozen=True)
class Comparison:
    """The differences a - b of paired losses, and p-values of one-sided paired t-tests.

    Args:
        difference: mean difference and its interval, in nats per token.
        p_lower: small if the mean difference is significantly below 0.
        p_not_above: small if it is significantly below the margin.
        p_not_below: small if it is significantly above minus the margin.
    """

    difference: Estimate
    p_lower: float
    p_not_above: float
    p_not_below: float

    @property
    def p_equivalent(self) -> float:
        """P-value of the two one-sided tests (TOST): small if the difference is within ±margin."""
        return max(self.p_not_above, self.p_not_below)


def compare(a: pd.Series, b: pd.Series, margin: float = MARGIN) -> Comparison | None:
    """Compare `a` with `b` seed by seed; None if they have no seed in common.

    Runs with the same seed share their data and initial weights, so their difference varies less
    than their losses. The tests assume that the differences are normally distributed over seeds.

    Args:
        a: final validation losses, indexed by seed.
        b: final validation losses to compare with, indexed by seed.
        margin: margin of the one-sided tests, in nats per token.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987), for the two one-sided tests.
    """
    differences = (a - b).dropna()
    if differences.empty:
        return None

    def p_value(mean: float, alternative: str) -> float:
        if len(differences) == 1:
            return math.nan
        return float(stats.ttest_1samp(differences, mean, alternative=alternative).pvalue)

    return Comparison(
        estimate(differences),
        p_lower=p_value(0.0, "less"),
        p_not_above=p_value(margin, "less"),
        p_not_below=p_value(-margin, "greater"),
    )
