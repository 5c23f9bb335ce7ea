"""Effective steps and displacements, from the histograms that runs have logged.

The effective step of a coordinate is D = |m|^(β-1) for PowerStep and 1/(√v̂ + ε) for Adam, in units
of the learning rate. The displacement is |m|^β, or |m̂|/(√v̂ + ε). All are monotone functions of a
logged magnitude, so their quantiles follow from its histogram. Coordinates with m = 0 are left out.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.frames import Results
from experiments.runs.effective_steps import BETA, BINS, GAMMA, HISTOGRAMS_FILE, bin_edges
from experiments.runs.folder import ResultsFolder

_EDGES = np.array(bin_edges())
QUANTILES = (0.0, 1e-4, 1e-3, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999, 1.0)

# The quantity that an optimizer's effective step and its displacement follow from.
_LOGGED = {
    ("powerstep", "effective step"): "momentum",
    ("powerstep", "displacement"): "momentum",
    ("adamw", "effective step"): "adam_denominator",
    ("adamw", "displacement"): "adam_update",
}


def read_logged(results: Results, file: str = HISTOGRAMS_FILE) -> pd.DataFrame:
    """Return the rows of a file of experiments.runs.effective_steps, of all runs that have it.

    The columns run, model, optimizer, seed, planned_steps and beta come first.
    """
    frames = []
    for row in results.runs.drop_duplicates("run").itertuples():
        path = ResultsFolder(results.folder).run(row.run).path / file
        if path.exists():
            rows = pd.read_parquet(path)
            beta = float(row.value) if row.argument == "beta" else BETA
            keys = {"run": row.run, "model": row.model, "optimizer": row.optimizer}
            keys |= {"seed": row.seed, "planned_steps": row.planned_steps, "beta": beta}
            frames.append(rows.assign(**keys)[[*keys, *rows.columns]])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run"])


def quantiles(
    rows: pd.DataFrame, of: str, q: Iterable[float] = QUANTILES, measure: str = "effective step"
) -> pd.DataFrame:
    """Return quantiles of the effective step or the displacement, in units of the learning rate.

    Args:
        rows: rows of `read_logged`, of any quantities.
        of: "powerstep" or "adamw", the optimizer whose steps are meant; each run has both.
        q: the quantiles, in [0, 1].
        measure: "effective step" or "displacement".

    Returns:
        The rows of the quantity behind it, without the counts, with a column for each of `q`.
    """
    q = np.asarray([*q], dtype=float)
    chosen = rows[rows["quantity"] == _LOGGED[of, measure]].reset_index(drop=True)
    exponents = _exponents(chosen, of, measure)
    magnitudes = np.array(
        [
            _magnitudes(row, q if exponent > 0 else 1 - q)
            for row, exponent in zip(chosen.itertuples(), exponents, strict=True)
        ]
    ).reshape(len(chosen), len(q))
    values = pd.DataFrame(magnitudes ** exponents[:, None], columns=q)
    return chosen.drop(columns=["counts", "first_bin"]).join(values)


def merged(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the histograms of all layer types as one, for each run, step and quantity.

    Args:
        rows: rows of `read_logged`, at least one, of different layer types.
    """
    keys = ["run", "model", "optimizer", "seed", "planned_steps", "beta", "step", "quantity"]
    found = []
    for key, cell in rows.groupby(keys, sort=False):
        counts = sum(_dense(row) for row in cell.itertuples())
        used = np.flatnonzero(counts)
        first, last = (used[0], used[-1]) if len(used) else (0, -1)
        found.append(
            dict(zip(keys, key, strict=True))
            | cell[["zeros", "denormals", "count"]].sum().to_dict()
            | {"smallest": cell["smallest"].min(), "largest": cell["largest"].max()}
            | {"first_bin": first, "counts": counts[first : last + 1]}
        )
    return pd.DataFrame(found)


def largest_momentum(runs: pd.DataFrame) -> float:
    """Return the bound C/(1-γ) of |m|, where gradients are clipped to the norm C."""
    return runs["grad_clip_norm"].iloc[0] / (1 - GAMMA)


def survival(row: object, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Return effective steps over their median, and the share of coordinates with larger ones.

    Args:
        row: a row of `read_logged`.
        exponent: the effective step is the logged magnitude to this negative power.
    """
    counts = _dense(row)
    used = np.flatnonzero(counts)
    edges = _EDGES[used[0] : used[-1] + 2]
    below = np.concatenate([[0], np.cumsum(counts[used[0] : used[-1] + 1])]) / counts.sum()
    # A smaller magnitude has a larger step. The lower edge of the first bin may be 0.
    edges[0] = max(edges[0], row.smallest)
    edges[-1] = min(edges[-1], row.largest)
    median = np.interp(0.5, below, edges)
    return (edges / median) ** exponent, below


def at_fractions(rows: pd.DataFrame, fractions: Iterable[float] = (0.1, 0.5, 1.0)) -> pd.DataFrame:
    """Return the rows at the logged steps nearest to fractions of a run, with the column `at`.

    A run that diverged has no rows for fractions that it did not reach.
    """
    found = []
    for _, of_run in rows.groupby("run", sort=False):
        steps = of_run["step"].unique()
        for fraction in fractions:
            wanted = fraction * of_run["planned_steps"].iloc[0]
            if wanted > steps.max():
                continue
            nearest = steps[np.abs(steps - wanted).argmin()]
            found.append(of_run[of_run["step"] == nearest].assign(at=fraction))
    return pd.concat(found, ignore_index=True) if found else rows.assign(at=np.nan)


def _exponents(rows: pd.DataFrame, of: str, measure: str) -> np.ndarray:
    """Return the power of the logged magnitude that is the effective step or the displacement."""
    beta = rows["beta"].to_numpy(float)
    if of == "adamw":
        return np.full(len(rows), -1.0 if measure == "effective step" else 1.0)
    return beta - 1 if measure == "effective step" else beta


def _dense(row: object) -> np.ndarray:
    """Return the counts of a histogram in all bins, int64, shape (BINS,)."""
    counts = np.zeros(BINS, dtype=np.int64)
    counts[row.first_bin : row.first_bin + len(row.counts)] = row.counts
    return counts


def _magnitudes(row: object, q: np.ndarray) -> np.ndarray:
    """Return quantiles of the nonzero magnitudes of a histogram, linear within a bin."""
    counts = np.asarray(row.counts)
    if not counts.sum():
        return np.full(len(q), np.nan)
    edges = _EDGES[row.first_bin : row.first_bin + len(counts) + 1]
    below = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return np.clip(np.interp(q, below, edges), row.smallest, row.largest)
