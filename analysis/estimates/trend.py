"""The trend of a gap over model size: a straight line over log10 of the number of parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.estimates.statistics import Measured

LACK_OF_FIT = (
    0.1  # p-value of the test of the line below which sizes scatter more than their errors
)


@dataclass(frozen=True)
class Trend:
    """A line gap = a + b·log10(parameters), by weighted least squares.

    Args:
        slope: b, nats per token and decade of parameters.
        lack_of_fit: p-value of the F test that the gaps scatter about the line as their errors say.
        scatter: τ, standard deviation of true gaps about the line, nats per token.
        parameters: of the models, shape (sizes,).
        gaps: with their standard errors, one for each model.
        coefficients: gap at the centre, and the slope.
        covariance: of the coefficients.
        centre: weighted mean of log10(parameters).
    """

    slope: Measured
    lack_of_fit: float
    scatter: float
    parameters: np.ndarray
    gaps: tuple[Measured, ...]
    coefficients: np.ndarray
    covariance: np.ndarray
    centre: float

    def at(self, parameters: float) -> Measured:
        """Return the gap on the line at a number of parameters."""
        row = np.array([1.0, np.log10(parameters) - self.centre])
        error = float(np.sqrt(row @ self.covariance @ row))
        return Measured(float(row @ self.coefficients), error, self.slope.df)


def fit_trend(parameters: Sequence[float], gaps: Sequence[Measured]) -> Trend | None:
    """Fit a line to gaps over model size.

    The weights are 1/(SE² + τ²), with τ² by restricted maximum likelihood (Raudenbush 2009,
    "Random effects models", in The Handbook of Research Synthesis). If the line fits, errors have
    the degrees of freedom of the gaps. If it does not, they have two fewer than there are sizes,
    and grow with the scatter about the line where that is larger than expected (Knapp and Hartung
    2003, doi:10.1002/sim.1482).

    Args:
        parameters: numbers of parameters of the models.
        gaps: one for each model, with errors from one common fit.

    Returns:
        None for fewer than three sizes, and for gaps without errors.
    """
    x, y = np.log10(np.asarray(parameters, dtype=float)), np.array([gap.value for gap in gaps])
    variances = np.array([gap.error**2 for gap in gaps])
    if len(x) < 3 or not np.isfinite(variances).all() or not variances.all():
        return None
    df = len(x) - 2
    _, _, misfit, _ = _line(x, y, variances)
    lack_of_fit = float(stats.f.sf(misfit / df, df, gaps[0].df))
    between = _between_sizes(x, y, variances)
    coefficients, covariance, misfit, centre = _line(x, y, variances + between)
    fits = lack_of_fit >= LACK_OF_FIT
    if not fits:
        covariance = covariance * max(1.0, misfit / df)
    slope = Measured(
        float(coefficients[1]), float(np.sqrt(covariance[1, 1])), gaps[0].df if fits else df
    )
    return Trend(
        slope=slope,
        lack_of_fit=lack_of_fit,
        scatter=float(np.sqrt(between)),
        parameters=np.asarray(parameters, dtype=float),
        gaps=tuple(gaps),
        coefficients=coefficients,
        covariance=covariance,
        centre=centre,
    )


def constant(gaps: Sequence[Measured]) -> Measured:
    """Return the mean gap with weights 1/SE², as if it did not depend on the size."""
    weights = np.array([1 / gap.error**2 for gap in gaps])
    value = float(weights @ [gap.value for gap in gaps] / weights.sum())
    return Measured(value, float(1 / np.sqrt(weights.sum())), gaps[0].df)


def power_law(parameters: Sequence[float], gaps: Sequence[Measured]) -> tuple[float, float] | None:
    """Return A and κ of gap = A·parameters^κ, by weighted least squares on the logarithm.

    Returns:
        None unless all gaps have the same sign.
    """
    values = np.array([gap.value for gap in gaps])
    if not (values > 0).all() and not (values < 0).all():
        return None
    relative = np.array([gap.error for gap in gaps]) / np.abs(values)
    x = np.log10(np.asarray(parameters, dtype=float))
    coefficients, _, _, centre = _line(x, np.log10(np.abs(values)), relative**2)
    level, exponent = coefficients
    return float(np.sign(values[0]) * 10 ** (level - exponent * centre)), float(exponent)


def _line(
    x: np.ndarray, y: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return coefficients, their covariance, the weighted misfit, and the centre of x."""
    weights = 1 / variances
    centre = float(weights @ x / weights.sum())
    design = np.column_stack([np.ones_like(x), x - centre])
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    coefficients = covariance @ design.T @ (weights * y)
    residuals = y - design @ coefficients
    return coefficients, covariance, float(weights @ residuals**2), centre


def _between_sizes(x: np.ndarray, y: np.ndarray, variances: np.ndarray) -> float:
    """Return τ², the variance of true gaps about the line, by restricted maximum likelihood."""

    def negative_log_likelihood(tau: float) -> float:
        total = variances + tau**2
        _, covariance, misfit, _ = _line(x, y, total)
        return float(np.log(total).sum() - np.linalg.slogdet(covariance)[1] + misfit)

    top = 10 * float(np.ptp(y)) + float(np.sqrt(variances.max()))
    found = optimize.minimize_scalar(negative_log_likelihood, bounds=(0, top), method="bounded")
    at_zero = negative_log_likelihood(0.0) <= found.fun
    return 0.0 if at_zero else float(found.x**2)
