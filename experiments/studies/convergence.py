"""How fast exact PowerStep updates converge on a noisy non-convex problem, and to what floor.

Version 1 of arXiv:2605.10335 claims that the least expected squared gradient norm falls as 1/√T
with steps η/√t, version 2 that it does so down to a residual that depends on the noise. Here both
can be seen: where noise is skewed, its sign and its powers have a mean though it has none.
"""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import atomic
from experiments.intervals import t_interval

STEPS, SEEDS, DIMENSIONS = 100_000, 8, 50
GAMMA, LR = 0.9, 0.05
BETAS = (0.0, 0.1, 0.2, 1.0)
SIGMAS = (0.0, 0.1, 1.0)
KINDS = ("symmetric", "skewed")
START = 1.5  # of every coordinate, where f is neither flat nor convex
SKEW = 0.1  # probability of the rare, large value of skewed noise
_POINTS = 61  # ends of the intervals over which the gradient is averaged
_FITTED_FROM = 0.01  # of the steps: fits are of the last two decades

# Curvatures of the coordinates, in fp64.
_SCALES = np.logspace(-1, 0, DIMENSIONS)


def write_convergence(path: Path) -> None:
    """Write the curves of every noise and β, and their fits beside them as `<stem>_fits.csv`.

    The curves' columns are noise, sigma, beta, gamma, step, grad_norm_sq (mean over the steps since
    the row before, and over seeds), min_grad_norm_sq (its least value so far), low and high (95 %
    interval of grad_norm_sq over seeds). The fits' are those of `fit` and what they are fits of.
    """
    curves, fits = [], []
    for noise, sigma, beta in product(KINDS, SIGMAS, BETAS):
        key = {"noise": noise, "sigma": sigma, "beta": beta, "gamma": GAMMA}
        steps, by_seed = run(noise, sigma, beta, STEPS)
        curves.append(_curve(steps, by_seed).assign(**key))
        fits.append(key | {"steps": STEPS, "seeds": SEEDS} | fit(steps, by_seed))
    first = ["noise", "sigma", "beta", "gamma"]
    with atomic(path) as file:
        joined = pd.concat(curves)
        joined[first + [name for name in joined if name not in first]].to_csv(file, index=False)
    with atomic(path.with_name(f"{path.stem}_fits.csv")) as file:
        pd.DataFrame(fits).to_csv(file, index=False)


def gradient(x: np.ndarray) -> np.ndarray:
    """Return ∇f of f(x) = Σ_i a_i·x_i²/(1 + x_i²): smooth, non-convex, its gradient bounded."""
    return _SCALES * 2 * x / (1 + x * x) ** 2


def draw_noise(kind: str, sigma: float, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Return noise of mean 0 and standard deviation `sigma`, independent in every element.

    Symmetric noise is normal. Skewed noise has two values: √((1-p)/p)·σ with probability p = SKEW,
    and -√(p/(1-p))·σ otherwise.
    """
    if kind == "symmetric":
        return sigma * rng.standard_normal(shape)
    rare, usual = np.sqrt((1 - SKEW) / SKEW), -np.sqrt(SKEW / (1 - SKEW))
    return sigma * np.where(rng.random(shape) < SKEW, rare, usual)


def run(noise: str, sigma: float, beta: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Take steps m ← γ·m + g, x ← x - η/√t·sign(m)·|m|^β with every seed at once.

    Returns:
        The last step of each interval, int64 of shape (intervals,), and the mean of ‖∇f(x)‖² over
        the interval, fp64 of shape (intervals, seeds).
    """
    rng = np.random.default_rng([KINDS.index(noise), *_bits(sigma), *_bits(beta)])
    shape = (SEEDS, DIMENSIONS)
    x, momentum = np.full(shape, START), np.zeros(shape)
    ends = np.unique(np.logspace(0, np.log10(steps), _POINTS).astype(int))
    means, t = [], 0
    for _, end in pairwise([0, *ends]):
        total, count = np.zeros(SEEDS), 0
        while t < end:
            t += 1
            true = gradient(x)
            total += (true * true).sum(axis=1)
            count += 1
            momentum = GAMMA * momentum + true + draw_noise(noise, sigma, rng, shape)
            x = x - LR / np.sqrt(t) * np.sign(momentum) * np.abs(momentum) ** beta
        means.append(total / count)
    return ends, np.array(means)


def fit(steps: np.ndarray, by_seed: np.ndarray) -> dict[str, float]:
    """Fit the last two decades of each seed's curve, and return means with 95 % intervals.

    Args:
        steps: shape (intervals,).
        by_seed: mean squared gradient norms, shape (intervals, seeds).

    Returns:
        slope of the logarithms; floor and rate of floor + rate/√T, least squares of relative
        deviations; last, the value of the last interval. slope and floor with _low and _high.
    """
    late = steps >= _FITTED_FROM * steps[-1]
    t = steps[late].astype(float)
    slopes, floors, rates = [], [], []
    for values in by_seed[late].T:
        slopes.append(np.polyfit(np.log(t), np.log(values), 1)[0])
        design = np.column_stack([np.ones_like(t), t**-0.5]) / values[:, None]
        floor, rate = np.linalg.lstsq(design, np.ones_like(t), rcond=None)[0]
        floors.append(floor)
        rates.append(rate)
    return {
        **_interval("slope", slopes),
        **_interval("floor", floors),
        "rate": float(np.mean(rates)),
        "last": float(by_seed[-1].mean()),
    }


def _interval(name: str, values: list[float]) -> dict[str, float]:
    mean, half = map(float, t_interval(values))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def _curve(steps: np.ndarray, by_seed: np.ndarray) -> pd.DataFrame:
    mean, half = t_interval(by_seed, axis=1)
    return pd.DataFrame(
        {
            "step": steps,
            "grad_norm_sq": mean,
            "min_grad_norm_sq": np.minimum.accumulate(mean),
            "low": mean - half,
            "high": mean + half,
        }
    )


def _bits(value: float) -> list[Any]:
    """Return a number as a seed: every noise and β has draws of its own."""
    return np.frombuffer(np.float64(value).tobytes(), dtype=np.uint32).tolist()
