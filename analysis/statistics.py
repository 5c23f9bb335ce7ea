"""Means and intervals over seeds."""

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95 % interval; NaN for a single seed."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        if self.n < 2:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


def estimate(values: pd.Series) -> Estimate:
    """Return the mean of independent values and its interval by Student's t.

    Args:
        values: one for each seed, none missing.
    """
    n = len(values)
    if n < 2:
        return Estimate(float(values.mean()), math.nan, n)
    half_width = stats.t.ppf(0.975, n - 1) * stats.sem(values)
    return Estimate(float(values.mean()), float(half_width), n)


def paired_difference(a: pd.Series, b: pd.Series) -> Estimate | None:
    """Return a - b over the seeds that both have; None where there is none.

    Runs of one seed share their data and initial weights, so the difference of a pair varies less
    than either of them.

    Args:
        a: values by seed (the index); NaN where a run diverged.
        b: the same for what `a` is compared with.
    """
    differences = (a - b).dropna()
    return estimate(differences) if len(differences) else None
