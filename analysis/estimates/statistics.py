"""Means, intervals and tests over seeds."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from experiments.intervals import t_interval


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


def exp(x: float) -> float:
    """Return e^x; infinity where math.exp raises an error, because it is too large for a float."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Measured:
    """An estimate that is normal with a standard error on `df` degrees of freedom.

    Without an error (NaN), its tests have p = NaN, and its interval is NaN.
    """

    value: float
    error: float
    df: float

    def interval(self, level: float) -> tuple[float, float]:
        """Return the two-sided interval of a level, such as 0.9, by Student's t."""
        half = stats.t.ppf((1 + level) / 2, self.df) * self.error
        return self.value - half, self.value + half

    def p_below(self, margin: float) -> float:
        """Return the p-value of the one-sided test that it is below a margin."""
        return float(stats.t.cdf((self.value - margin) / self.error, self.df))

    def p_above(self, margin: float) -> float:
        """Return the p-value of the one-sided test that it is above a margin."""
        return float(stats.t.sf((self.value - margin) / self.error, self.df))

    def scaled(self, factor: float) -> "Measured":
        """Return the estimate and its error times a factor."""
        return Measured(self.value * factor, self.error * abs(factor), self.df)

    def plus(self, other: "Measured") -> "Measured":
        """Return the sum with an independent estimate; df by Welch and Satterthwaite."""
        variances = self.error**2, other.error**2
        parts = (variances[0] ** 2 / self.df, variances[1] ** 2 / other.df)
        total = sum(variances)
        df = total**2 / sum(parts) if sum(parts) else math.nan
        return Measured(self.value + other.value, math.sqrt(total), df)


def mean_of(values: pd.Series | np.ndarray) -> Measured:
    """Return the mean of independent values with its standard error.

    The error is NaN for fewer than two values, and for values that are all equal: they say nothing
    about how much other seeds would vary.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return Measured(float(values.mean()) if n else math.nan, math.nan, math.nan)
    return Measured(float(values.mean()), float(stats.sem(values)), n - 1)


def ratio_interval(a: Measured, b: Measured, level: float) -> tuple[float, float]:
    """Return the interval of a / b for independent estimates; NaN if b may be 0.

    Source: Fieller, J. R. Statist. Soc. B 16 (1954) 175-185.
    """
    df = a.plus(b).df
    t = stats.t.ppf((1 + level) / 2, df)
    square = b.value**2 - (t * b.error) ** 2
    if not square > 0:
        return math.nan, math.nan
    middle = a.value * b.value
    root = math.sqrt(max(0.0, middle**2 - square * (a.value**2 - (t * a.error) ** 2)))
    return (middle - root) / square, (middle + root) / square
