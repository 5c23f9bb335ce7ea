"""Means, intervals and tests over seeds."""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from experiments.intervals import t_interval

MARGIN = 0.028  # nats: the largest loss behind AdamW that the paper reports (table 4, Qwen3-8B)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95 % interval; NaN for a single seed."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        return f"{self}"

    def __format__(self, sign: str) -> str:
        """Show the mean, with "+" before it if `sign` is "+", and the interval if there is one."""
        mean = format(self.mean, f"{sign}.3f")
        return mean if self.n < 2 else f"{mean} ± {self.half_width:.3f}"


def estimate(values: pd.Series) -> Estimate:
    """Return the mean of independent values and its interval by Student's t.

    Args:
        values: one for each seed, none missing.
    """
    mean, half_width = t_interval(values)
    return Estimate(float(mean), float(half_width), len(values))


@dataclass(frozen=True)
class Comparison:
    """A loss minus another one, over the seeds that both have; p-values of paired t-tests.

    Args:
        difference: its mean and interval, in nats per token.
        p_lower: one-sided; small where the difference is surely below 0.
        p_not_above: one-sided; small where it is surely below the margin.
        p_not_below: one-sided; small where it is surely above minus the margin.
    """

    difference: Estimate
    p_lower: float
    p_not_above: float
    p_not_below: float

    @property
    def p_equivalent(self) -> float:
        """Of two one-sided tests (TOST); small where the difference is surely within the margin."""
        return max(self.p_not_above, self.p_not_below)


def compare(a: pd.Series, b: pd.Series, margin: float = MARGIN) -> Comparison | None:
    """Compare `a` with `b` pair by pair; None where no seed has both.

    Runs of one seed share their data and initial weights, so the difference of a pair varies less
    than either of them. The tests assume that differences are normal over seeds.

    Args:
        a: final validation losses by seed (the index).
        b: the same of what `a` is compared with.
        margin: in nats per token, of the one-sided tests.

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
