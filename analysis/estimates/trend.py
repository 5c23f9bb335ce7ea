"""The trend of a gap over model size: a straight line over log10 of the number of parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from analysis.estimates.statistics import Measured

# p-value of the test of the line below which sizes scatter more than their errors. A smaller one
# would miss scatter more often, and intervals would cover less than they say.
LACK_OF_FIT = 0.25


@dataclass(frozen=True)
class Trend:
    """A line gap = a + b·log10(parameters), by weighted least squares.

    Args:
        lack_of_fit: p-value of the F test that the gaps scatter about the line as their errors say.
        scatter: τ, standard deviation of true gaps about the line, nats per token.
        parameters: of the models, shape (sizes,).
        gaps: with their standard errors, one for each model.
        coefficients: gap at the centre, and the slope.
        weights: of the gaps in the coefficients, shape (2, sizes).
        covariance: of the coefficients.
        centre: weighted mean of log10(parameters).
    """

    lack_of_fit: float
    scatter: float
    parameters: np.ndarray
    gaps: tuple[Measured, ...]
    coefficients: np.ndarray
    weights: np.ndarray
    covariance: np.ndarray
    centre: float

    @property
    def fits(self) -> bool:
        """Return whether the gaps scatter about the line no more than their errors say."""
        return self.lack_of_fit >= LACK_OF_FIT

    def at(self, parameters: float) -> Measured:
        """Return the gap on the line at a number of parameters."""
        return self._combined(np.array([1.0, np.log10(parameters) - self.centre]))

    @property
    def slope(self) -> Measured:
        """Return b, nats per token and decade of parameters."""
        return self._combined(np.array([0.0, 1.0]))

    def _combined(self, row: np.ndarray) -> Measured:
        """Return a combination of the coefficients.

        Without lack of fit, its degrees of freedom are those of the gaps, by Welch and
        Satterthwaite.
        """
        error = float(np.sqrt(row @ self.covariance @ row))
        df = float(len(self.gaps) - 2)
        if self.fits:
            parts = (row @ self.weights) ** 2 * [gap.error**2 for gap in self.gaps]
            df = float(parts.sum() ** 2 / (parts**2 / [gap.df for gap in self.gaps]).sum())
        return Measured(float(row @ self.coefficients), error, df)


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
    harmonic = len(gaps) / sum(1 / gap.df for gap in gaps)
    lack_of_fit = float(stats.f.sf(_line(x, y, variances).misfit / df, df, harmonic))
    between = _between_sizes(x, y, variances)
    line = _line(x, y, variances + between)
    widening = 1.0 if lack_of_fit >= LACK_OF_FIT else max(1.0, line.misfit / df)
    return Trend(
        lack_of_fit=lack_of_fit,
        scatter=float(np.sqrt(between)),
        parameters=np.asarray(parameters, dtype=float),
        gaps=tuple(gaps),
        coefficients=line.weights @ y,
        weights=line.weights,
        covariance=widening * line.covariance,
        centre=line.centre,
    )


def constant(gaps: Sequence[Measured]) -> Measured:
    """Return the mean gap with weights 1/SE², as if it did not depend on the size."""
    weights = np.array([1 / gap.error**2 for gap in gaps])
    value = float(weights @ [gap.value for gap in gaps] / weights.sum())
    return Measured(value, float(1 / np.sqrt(weights.sum())), min(gap.df for gap in gaps))


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
    line = _line(x, np.log10(np.abs(values)), relative**2)
    level, exponent = line.weights @ np.log10(np.abs(values))
    return float(np.sign(values[0]) * 10 ** (level - exponent * line.centre)), float(exponent)


class _Line(NamedTuple):
    """A weighted least-squares line: its coefficients are weights @ y."""

    weights: np.ndarray  # shape (2, sizes)
    covariance: np.ndarray
    misfit: float  # weighted sum of squared residuals
    centre: float


def _line(x: np.ndarray, y: np.ndarray, variances: np.ndarray) -> _Line:
    inverse = 1 / variances
    centre = float(inverse @ x / inverse.sum())
    design = np.column_stack([np.ones_like(x), x - centre])
    covariance = np.linalg.inv(design.T @ (inverse[:, None] * design))
    weights = covariance @ design.T * inverse
    residuals = y - design @ (weights @ y)
    return _Line(weights, covariance, float(inverse @ residuals**2), centre)


def _between_sizes(x: np.ndarray, y: np.ndarray, variances: np.ndarray) -> float:
    """Return τ², the variance of true gaps about the line, by restricted maximum likelihood."""

    def negative_log_likelihood(tau: float) -> float:
        total = variances + tau**2
        line = _line(x, y, total)
        return float(np.log(total).sum() - np.linalg.slogdet(line.covariance)[1] + line.misfit)

    top = 10 * float(np.ptp(y)) + float(np.sqrt(variances.max()))
    found = optimize.minimize_scalar(negative_log_likelihood, bounds=(0, top), method="bounded")
    at_zero = negative_log_likelihood(0.0) <= found.fun
    return 0.0 if at_zero else float(found.x**2)
