"""Confidence intervals of means over seeds."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def t_interval(values: ArrayLike, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the half width of its 95 % interval by Student's t.

    Args:
        values: independent and normal along `axis`, none missing; a sequence or an array.
        axis: of the seeds.

    Returns:
        Mean and half width, fp64, in the shape of `values` without `axis`: numbers for a sequence.
        The half width is NaN where there are fewer than two values.
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[axis]
    mean = values.mean(axis=axis)
    if n < 2:
        return mean, mean * np.nan
    return mean, stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=axis)
