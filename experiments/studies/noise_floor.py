"""The stationary point of PowerStep's update under skewed noise, in closed form.

A coordinate with the constant gradient g and noise ξ has the momentum g/(1-γ) + S at stationarity,
with S = Σ_k γ^k·ξ_k. Its update has mean zero where E Φ_β(g/(1-γ) + S) = 0. Skewed noise makes
that gradient g* differ from 0, unless β = 1.
"""

from functools import cache

import numpy as np
from scipy import optimize

_POINTS, _ITERATIONS = 2**16, 400  # of the distribution of S; γ^400 is 5e-19


@cache
def stationary_gradient(beta: float, gamma: float, skew: float) -> float:
    """Return |g*| for noise of standard deviation 1; it is proportional to that deviation.

    Args:
        beta: exponent β of the update, in [0, 1].
        gamma: momentum decay γ.
        skew: probability of the rare, large value of the noise (convergence.draw_noise).
    """
    values, weights = _momentum_noise(gamma, skew)

    def mean_update(gradient: float) -> float:
        momentum = gradient / (1 - gamma) + values
        return float(weights @ (np.sign(momentum) * np.abs(momentum) ** beta))

    return abs(float(optimize.brentq(mean_update, -1.0, 1.0, xtol=1e-12)))


@cache
def _momentum_noise(gamma: float, skew: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the distribution of S as values and their probabilities, each of shape (points,).

    S is distributed as γ·S + ξ, so its distribution function is the fixed point of an iteration
    that contracts by γ.
    """
    rare, usual = np.sqrt((1 - skew) / skew), -np.sqrt(skew / (1 - skew))
    grid = np.linspace(usual / (1 - gamma) - 1e-9, rare / (1 - gamma) + 1e-9, _POINTS)
    below = (grid >= 0).astype(float)
    for _ in range(_ITERATIONS):
        shifted = ((grid - value) / gamma for value in (rare, usual))
        of_rare, of_usual = (np.interp(at, grid, below, left=0, right=1) for at in shifted)
        below = skew * of_rare + (1 - skew) * of_usual
    return (grid[1:] + grid[:-1]) / 2, np.diff(below)
