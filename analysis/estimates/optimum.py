"""The loss at an optimizer's own best learning rate, by a quadratic in log2(lr).

The lowest loss of a sweep is biased: it is lower the flatter and the noisier the curve is. A
quadratic through the nearest rates, over all seeds, is not. Losses rise faster and scatter more
above the best rate than below it, so fewer rates count there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimates.statistics import Measured
from experiments.runs.summary import Status

BELOW, ABOVE = 2.0, 1.0  # octaves from the best rate within which rates count
LEAST = 3  # rates that determine a quadratic


@dataclass(frozen=True)
class Optimum:
    """The fitted minimum of one cell's loss over its learning rates.

    Args:
        log2_lr: log2 of the best learning rate.
        curvature: c of the loss L* + c·(log2(lr) - log2_lr)², in nats per octave².
        is_inside: whether the best rate is inside the sweep by more than its standard error, so
            that no rate outside of the sweep can be better.
        rates: the rates of the fit.
    """

    log2_lr: Measured
    curvature: Measured
    loss: Measured
    is_inside: bool
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Noise:
    """The variance of residuals, NaN if unknown, and its degrees of freedom."""

    variance: float
    df: int


@dataclass(frozen=True)
class Optima:
    """The optima of several cells, from one least-squares fit with a common effect of each seed."""

    cells: dict[str, Optimum]
    covariance: np.ndarray  # of the cells' lowest losses, in their order
    noise: Noise

    @property
    def df(self) -> int:
        """Degrees of freedom of all standard errors."""
        return self.noise.df

    def difference(self, weights: Mapping[str, float]) -> Measured:
        """Return a weighted sum of the cells' lowest losses, such as {"a": 1, "b": -1}."""
        vector = np.array([weights.get(name, 0.0) for name in self.cells])
        losses = np.array([cell.loss.value for cell in self.cells.values()])
        variance = float(vector @ self.covariance @ vector)
        return Measured(float(vector @ losses), float(np.sqrt(variance)), self.df)


def fit_optima(cells: Mapping[str, pd.DataFrame], noise: Noise | None = None) -> Optima | None:
    """Fit the optimum of each cell: y = L* + c·(x - x*)² + effect of the seed, x = log2(lr).

    Args:
        cells: runs by the name of their cell, with the columns lr, seed, status and
            final_val_loss. Several runs of a rate differ in their seeds.
        noise: variance of the residuals, for runs that are too few to estimate it; by default it is
            that of their own residuals.

    Returns:
        None if a cell has fewer than three rates at which every run completed near its best one,
        or a curve without a minimum. Standard errors are NaN without degrees of freedom.
    """
    chosen = {name: near_best(runs) for name, runs in cells.items()}
    if any(runs["lr"].nunique() < LEAST for runs in chosen.values()):
        return None
    centers = {name: np.log2(runs["lr"]).mean() for name, runs in chosen.items()}
    seeds = sorted({seed for runs in chosen.values() for seed in runs["seed"]})
    rows = []
    for position, (name, runs) in enumerate(chosen.items()):
        x = np.log2(runs["lr"].to_numpy(float)) - centers[name]
        block = np.zeros((len(runs), 3 * len(chosen) + len(seeds) - 1))
        block[:, 3 * position : 3 * position + 3] = np.column_stack([np.ones_like(x), x, x * x])
        # The effects of the seeds sum to 0.
        for row, seed in enumerate(runs["seed"]):
            if seed == seeds[-1]:
                block[row, 3 * len(chosen) :] = -1
            else:
                block[row, 3 * len(chosen) + seeds.index(seed)] = 1
        rows.append(block)
    design = np.vstack(rows)
    losses = np.concatenate([runs["final_val_loss"].to_numpy(float) for runs in chosen.values()])
    solution, _, rank, _ = np.linalg.lstsq(design, losses, rcond=None)
    if rank < design.shape[1]:
        return None  # a cell has none of the others' seeds, or too few rates
    noise = noise or _noise(losses - design @ solution, len(losses) - int(rank))
    full = noise.variance * np.linalg.inv(design.T @ design)
    return _optima(chosen, cells, centers, solution, full, noise)


def _noise(residuals: np.ndarray, df: int) -> Noise:
    # Equal runs say nothing about how much others would vary.
    known = df and np.ptp(residuals) > 1e-12
    return Noise(float(residuals @ residuals) / df if known else np.nan, df)


def near_best(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs from BELOW octaves below the best rate to ABOVE octaves above it.

    Where these are at fewer than LEAST rates, the nearest ones within BELOW octaves count. The
    best rate has the lowest mean loss. Rates at which a run diverged or is missing are left out.
    """
    runs = runs.drop_duplicates(["lr", "seed"])
    complete = (runs["status"] == Status.COMPLETED).groupby(runs["lr"]).transform("all")
    runs = runs[complete]
    if runs.empty:
        return runs
    means = runs.groupby("lr")["final_val_loss"].mean()
    octaves = np.log2(means.index.to_numpy(float) / means.idxmin())
    kept = (octaves > -BELOW - 0.1) & (octaves < ABOVE + 0.1)  # grids need not be exact
    if kept.sum() < LEAST:
        nearest = np.argsort(np.abs(octaves), kind="stable")[:LEAST]
        kept = nearest[np.abs(octaves[nearest]) < BELOW + 0.1]
    return runs[runs["lr"].isin(means.index[kept])]


def _optima(
    chosen: Mapping[str, pd.DataFrame],
    cells: Mapping[str, pd.DataFrame],
    centers: Mapping[str, float],
    solution: np.ndarray,
    full: np.ndarray,
    noise: Noise,
) -> Optima | None:
    """Return the minima of the fitted quadratics, with errors by the delta method."""
    optima, gradients, df = {}, np.zeros((len(chosen), len(solution))), noise.df
    for position, (name, runs) in enumerate(chosen.items()):
        own = slice(3 * position, 3 * position + 3)
        level, slope, curvature = solution[own]
        if curvature <= 0:
            return None
        at = -slope / (2 * curvature)
        gradients[position, own] = 1, at, at * at
        of_at = np.array([0, -1 / (2 * curvature), slope / (2 * curvature**2)])
        error = float(np.sqrt(of_at @ full[own, own] @ of_at))
        tried = np.log2(cells[name]["lr"].astype(float)) - centers[name]
        optima[name] = Optimum(
            Measured(float(at + centers[name]), error, df),
            Measured(float(curvature), float(np.sqrt(full[own, own][2, 2])), df),
            Measured(
                float(level + slope * at / 2),
                float(np.sqrt(gradients[position] @ full @ gradients[position])),
                df,
            ),
            is_inside=bool(tried.min() < at - error and at + error < tried.max()),
            rates=tuple(sorted(runs["lr"].unique().tolist())),
        )
    return Optima(optima, gradients @ full @ gradients.T, noise)
