"""The rate and the floor of convergence of exact PowerStep updates on a noisy non-convex problem.

With step sizes η/√t, version 1 of arXiv:2605.10335 claims that the smallest expected squared
gradient norm falls as 1/√T. Version 2 claims that it falls so only to a residual that depends on
the noise. This study shows both cases: skewed noise has mean zero, but its sign and its powers do
not, and so they leave a residual, which experiments.studies.noise_floor predicts.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import atomic
from experiments.intervals import t_interval
from experiments.studies.noise_floor import stationary_gradient

STEPS, SEEDS, DIMENSIONS = 100_000, 8, 50
GAMMA, LR = 0.9, 0.05  # momentum decay γ, and step size η
BETAS = (0.0, 0.1, 0.2, 1.0)  # exponents β of the update
SIGMAS = (0.0, 0.1, 0.3, 1.0)  # standard deviations of the noise
HORIZONS = (1_000, 10_000, 50_000)  # numbers of steps T with a constant step size
HORIZON_BETA = 0.1
KINDS = ("symmetric", "skewed")  # kinds of noise
START = 1.5  # initial value of every coordinate, where f is neither flat nor convex
SKEW = 0.1  # probability of the rare, large value of skewed noise
_DRAWN = 64  # steps whose noise is drawn at once; the numbers are the same as one by one
_POINTS = 61  # number of interval ends, evenly spaced in log(step); rounding merges some
_DROP = 0.1  # a curve has dropped once it is below this fraction of its start
_FITTED_AFTER = 10  # times the step of the drop; before that the curve still has its transient
_FEWEST = 5  # intervals that a fit needs

# The weights a_i of the coordinates in f, fp64, shape (DIMENSIONS,).
_SCALES = np.logspace(-1, 0, DIMENSIONS)


def write_convergence(path: Path) -> None:
    """Write the curve of each combination of noise and β, and what follows from it.

    The columns of the curves are noise, sigma, beta, gamma, step, grad_norm_sq (mean over seeds and
    over the steps since the previous row), min_grad_norm_sq (the smallest grad_norm_sq so far), low
    and high (95 % interval of grad_norm_sq over seeds). `<stem>_fits.csv` has the columns noise,
    sigma, beta, gamma, steps, seeds, predicted_floor, and the values that `fit` returns.
    `<stem>_horizons.csv` has noise, sigma, beta, gamma, steps, and the mean over all steps of the
    squared gradient norm with a constant step size, with its 95 % interval (low, high).
    """
    curves, fits, horizons = [], [], []
    found = {beta: _by_case(beta, STEPS) for beta in BETAS}
    means = {T: _by_case(HORIZON_BETA, T, constant=True) for T in HORIZONS}
    for noise, sigma, beta in product(KINDS, SIGMAS, BETAS):
        key = {"noise": noise, "sigma": sigma, "beta": beta, "gamma": GAMMA}
        steps, by_seed = found[beta][noise, sigma]
        curves.append(_curve(steps, by_seed).assign(**key))
        seeds = {"steps": STEPS, "seeds": by_seed.shape[1]}
        floor = {"predicted_floor": predicted_floor(noise, sigma, beta)}
        fits.append(key | seeds | floor | fit(steps, by_seed))
        if beta == HORIZON_BETA:
            horizons += [
                key | {"steps": T} | _whole_mean(*means[T][noise, sigma]) for T in HORIZONS
            ]
    first = ["noise", "sigma", "beta", "gamma"]
    joined = pd.concat(curves)
    tables = {
        path: joined[first + [name for name in joined if name not in first]],
        path.with_name(f"{path.stem}_fits.csv"): pd.DataFrame(fits),
        path.with_name(f"{path.stem}_horizons.csv"): pd.DataFrame(horizons),
    }
    for target, table in tables.items():
        with atomic(target) as file:
            table.to_csv(file, index=False)


def predicted_floor(noise: str, sigma: float, beta: float) -> float:
    """Return the squared gradient norm at the stationary point of the update, in closed form.

    The update is homogeneous in gradient and noise, so each coordinate stands still where its
    gradient is σ·g*, with g* of experiments.studies.noise_floor. This holds as long as the noise
    does not throw coordinates over the landscape's inflections, which it does at σ = 1.
    """
    if noise == "symmetric":
        return 0.0
    return DIMENSIONS * (sigma * stationary_gradient(beta, GAMMA, SKEW)) ** 2


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


def run(
    cases: Sequence[tuple[str, float]], beta: float, steps: int, *, constant: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Run m ← γ·m + g, x ← x - η_t·sign(m)·|m|^β for all cases and seeds at once; g is noisy.

    The step size η_t is η/√t. If `constant`, it is 10·η/√T at every step of the horizon T.

    Args:
        cases: kinds of noise and their standard deviations. Without noise all seeds would be the
            same, so such a case must be alone, and has one seed.
        beta: β.
        steps: T.
        constant: whether the step size is constant.

    Returns:
        The last step of each interval, int64 of shape (intervals,), and the mean of ‖∇f(x)‖² over
        the interval, fp64 of shape (cases, intervals, seeds).
    """
    rngs = [np.random.default_rng([KINDS.index(k), *_bits(s), *_bits(beta)]) for k, s in cases]
    shape = (len(cases), SEEDS if all(sigma for _, sigma in cases) else 1, DIMENSIONS)
    x, momentum = np.full(shape, START), np.zeros(shape)
    ends = np.unique(np.logspace(0, np.log10(steps), _POINTS).astype(int))
    means, t = [], 0
    noise = iter(())
    for _, end in pairwise([0, *ends]):
        total, count = np.zeros(shape[:2]), 0
        while t < end:
            if t % _DRAWN == 0:
                noise = _noise_of(cases, rngs, (min(_DRAWN, steps - t), *shape[1:]))
            t += 1
            true = gradient(x)
            total += (true * true).sum(axis=2)
            count += 1
            momentum = GAMMA * momentum + true + next(noise)
            lr = 10 * LR / np.sqrt(steps) if constant else LR / np.sqrt(t)
            x = x - lr * _signed_power(momentum, beta)
        means.append(total / count)
    return ends, np.stack(means, axis=1)


def _noise_of(
    cases: Sequence[tuple[str, float]], rngs: Sequence[np.random.Generator], shape: tuple
) -> Iterator[np.ndarray]:
    """Yield the noise of the next steps, of shape (cases, seeds, dimensions) each."""
    drawn = [draw_noise(*case, rng, shape) for case, rng in zip(cases, rngs, strict=True)]
    return iter(np.stack(drawn, axis=1))


def _signed_power(momentum: np.ndarray, beta: float) -> np.ndarray:
    if beta == 1:
        return momentum
    return np.sign(momentum) * np.abs(momentum) ** beta if beta else np.sign(momentum)


def fit(steps: np.ndarray, by_seed: np.ndarray) -> dict[str, float]:
    """Fit each seed's curve after its transient; return means and 95 % intervals over seeds.

    The transient lasts _FITTED_AFTER times as long as the curve takes to fall below _DROP of its
    start. A curve that is too short is not fitted.

    Args:
        steps: last step of each interval, shape (intervals,).
        by_seed: mean squared gradient norms, shape (intervals, seeds).

    Returns:
        start and last, the means of the first and of the last interval; fitted_from, the first step
        of the fit; slope of log(grad_norm_sq) over log(step); floor and rate of the curve
        floor + rate/√T, fitted by least squares of the relative deviations. The 95 % intervals of
        slope and floor have the suffixes _low and _high. Without a fit, its values are NaN.
    """
    mean = by_seed.mean(axis=1)
    found = {"start": float(mean[0]), "last": float(mean[-1])}
    dropped = mean <= _DROP * mean[0]
    late = steps > _FITTED_AFTER * steps[dropped.argmax()] if dropped.any() else steps < 0
    slopes, floors, rates = [], [], []
    if late.sum() >= _FEWEST:
        t = steps[late].astype(float)
        for values in by_seed[late].T:
            slopes.append(np.polyfit(np.log(t), np.log(values), 1)[0])
            design = np.column_stack([np.ones_like(t), t**-0.5]) / values[:, None]
            floor, rate = np.linalg.lstsq(design, np.ones_like(t), rcond=None)[0]
            floors.append(floor)
            rates.append(rate)
    return {
        **found,
        "fitted_from": float(steps[late][0]) if slopes else np.nan,
        **_interval("slope", slopes),
        **_interval("floor", floors),
        "rate": float(np.mean(rates)) if rates else np.nan,
    }


def _by_case(
    beta: float, steps: int, *, constant: bool = False
) -> dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]:
    """Return the result of `run` for each kind of noise and each of SIGMAS."""
    noisy = [(kind, sigma) for kind, sigma in product(KINDS, SIGMAS) if sigma]
    ends, by_seed = run(noisy, beta, steps, constant=constant)
    exact = run([(KINDS[0], 0.0)], beta, steps, constant=constant)[1][0]  # the same for each kind
    found = {(kind, 0.0): (ends, exact) for kind in KINDS}
    return found | {case: (ends, own) for case, own in zip(noisy, by_seed, strict=True)}


def _whole_mean(ends: np.ndarray, by_seed: np.ndarray) -> dict[str, float]:
    """Return the mean squared gradient norm over all steps, and its interval."""
    means = np.average(by_seed, axis=0, weights=np.diff(ends, prepend=0))
    mean, half = map(float, t_interval(means))
    return {"mean_grad_norm_sq": mean, "low": mean - half, "high": mean + half}


def _interval(name: str, values: list[float]) -> dict[str, float]:
    mean, half = map(float, t_interval(values)) if values else (np.nan, np.nan)
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
