"""The rate and the floor of convergence of exact PowerStep updates on a noisy non-convex problem.

With step sizes η/√t, version 1 of arXiv:2605.10335 claims that the smallest expected squared
gradient norm falls as 1/√T. Version 2 claims that it falls so only to a residual that depends on
the noise. This study shows both cases: skewed noise has mean zero, but its sign and its powers do
not, and so they leave a residual.
"""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import atomic
from experiments.intervals import t_interval

STEPS, SEEDS, DIMENSIONS = 100_000, 8, 50
GAMMA, LR = 0.9, 0.05  # momentum decay γ, and step size η
BETAS = (0.0, 0.1, 0.2, 1.0)  # exponents β of the update
SIGMAS = (0.0, 0.1, 1.0)  # standard deviations of the noise
KINDS = ("symmetric", "skewed")  # kinds of noise
START = 1.5  # initial value of every coordinate, where f is neither flat nor convex
SKEW = 0.1  # probability of the rare, large value of skewed noise
_POINTS = 61  # number of interval ends, evenly spaced in log(step); rounding merges some
_FITTED_FROM = 0.01  # fraction of the steps after which curves are fitted: the last two decades

# The weights a_i of the coordinates in f, fp64, shape (DIMENSIONS,).
_SCALES = np.logspace(-1, 0, DIMENSIONS)


def write_convergence(path: Path) -> None:
    """Write the curve of each combination of noise and β, and the fits as `<stem>_fits.csv`.

    The columns of the curves are noise, sigma, beta, gamma, step, grad_norm_sq (mean over seeds and
    over the steps since the previous row), min_grad_norm_sq (the smallest grad_norm_sq so far), low
    and high (95 % interval of grad_norm_sq over seeds). The columns of the fits are noise, sigma,
    beta, gamma, steps, seeds, and the values that `fit` returns.
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
    """Return ∇f of f(x) = Σ_i a_i·x_i²/(1 + x_i²): smooth, non-convex, bounded gradient."""
    return _SCALES * 2 * x / (1 + x * x) ** 2


def draw_noise(kind: str, sigma: float, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Return noise with mean 0 and standard deviation `sigma`, independent in every element.

    Symmetric noise is Gaussian. Skewed noise takes two values: √((1-p)/p)·σ with probability
    p = SKEW, and -√(p/(1-p))·σ otherwise.
    """
    if kind == "symmetric":
        return sigma * rng.standard_normal(shape)
    rare, usual = np.sqrt((1 - SKEW) / SKEW), -np.sqrt(SKEW / (1 - SKEW))
    return sigma * np.where(rng.random(shape) < SKEW, rare, usual)


def run(noise: str, sigma: float, beta: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Run m ← γ·m + g, x ← x - η/√t·sign(m)·|m|^β with all seeds at once; g is noisy.

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
    """Fit the last two decades of each seed's curve; return means and 95 % intervals over seeds.

    Args:
        steps: last step of each interval, shape (intervals,).
        by_seed: mean squared gradient norms, shape (intervals, seeds).

    Returns:
        slope of log(grad_norm_sq) over log(step); floor and rate of the curve floor + rate/√T,
        fitted by least squares of the relative deviations; last, the mean of the last interval. The
        95 % intervals of slope and floor have the suffixes _low and _high.
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
    """Return a number's bits as part of a seed, so that every σ and β has its own draws."""
    return np.frombuffer(np.float64(value).tobytes(), dtype=np.uint32).tolist()
