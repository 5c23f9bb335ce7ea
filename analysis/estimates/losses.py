"""Final losses at the shared learning rate, and at the best learning rate of each optimizer."""

import math

import pandas as pd

from analysis.estimates.optimum import fit_optima
from analysis.estimates.statistics import Estimate, estimate
from analysis.text import number
from experiments.runs.summary import Status

_OWN = ["model", "optimizer", "label", "argument", "value"]  # has one best learning rate
_CELL = [*_OWN, "lr"]


def is_shared(runs: pd.DataFrame) -> pd.Series:
    """Return whether each run has the learning rate that all optimizers of its model share."""
    return runs["lr"] == runs["shared_lr"]


def is_sweep(runs: pd.DataFrame) -> pd.Series:
    """Return whether each run belongs to the experiment that sweeps the learning rate."""
    return runs["experiment"] == "learning_rate"


def protocols(runs: pd.DataFrame) -> list[str]:
    """Return the protocol of each run: "shared lr", or for example "lr 0.003" at another rate."""
    return [
        "shared lr" if shared else f"lr {number(lr)}"
        for lr, shared in zip(runs["lr"], is_shared(runs), strict=True)
    ]


def final_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean final validation loss over the seeds of each cell of a table.

    There is a mean only if every planned seed completed. A mean without the diverged seeds would
    flatter the optimizer.

    Args:
        runs: planned runs, with the columns of `analysis.frames.Results.runs`.

    Returns:
        One row for each model, optimizer, label, argument, value and lr. The other columns are
        shared_lr, mean and ci95 (half-width of the 95 % interval over seeds) in nats per token,
        window_error (mean over seeds of the standard error over the validation windows), n (number
        of planned seeds), diverged and missing (numbers of seeds).
    """
    unique = runs.drop_duplicates([*_CELL, "seed"])
    rows = []
    for key, cell in unique.groupby(_CELL, sort=False):
        counts = cell["status"].value_counts()
        complete = (cell["status"] == Status.COMPLETED).all()
        over_seeds = estimate(cell["final_val_loss"]) if complete else None
        rows.append(
            dict(zip(_CELL, key, strict=True))
            | {
                "shared_lr": cell["shared_lr"].iloc[0],
                "mean": over_seeds.mean if over_seeds else None,
                "ci95": over_seeds.half_width if over_seeds else None,
                "window_error": cell["final_val_error"].astype(float).mean(),
                "n": len(cell),
                "diverged": int(counts.get(Status.DIVERGED, 0)),
                "missing": int(
                    len(cell) - counts.get(Status.DIVERGED, 0) - counts.get(Status.COMPLETED, 0)
                ),
            }
        )
    numbers = ["shared_lr", "mean", "ci95", "window_error"]
    columns = [*_CELL, *numbers, "n", "diverged", "missing"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(["lr", *numbers], float))


def best_lr(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the best learning rate of each cell of sweeps.

    The best learning rate has the lowest mean final validation loss. Rates at which a seed diverged
    are left out. That mean is too low, because its noise helped to choose it; the more so, the
    flatter the curve. Verdicts use the minimum of a quadratic instead, `fitted_loss`. A cell with
    missing runs in its sweep gets no best rate. A profile may give optimizers different numbers of
    rates; the column `tried` shows them.

    Args:
        runs: planned runs, such as those of `is_sweep`, with the columns of
            `analysis.frames.Results.runs`.

    Returns:
        The chosen rows of `final_losses`, with the columns `tried` (number of rates in the sweep),
        `edge` (whether a rate outside the sweep may be better: the best is the lowest or highest of
        several rates, or the fitted optimum is within its standard error of the edge), and
        `fitted_lr`, `fitted_loss` and `fitted_ci95` (the fitted optimum of
        analysis.estimates.optimum, with the half-width of the loss's 95 % interval; NaN without a
        fit).
    """
    sweep = final_losses(runs)
    cells = {name: cell for name, cell in runs.groupby(_OWN, sort=False)}
    chosen = []
    for key, of_cell in sweep.groupby(_OWN, sort=False):
        if of_cell["mean"].isna().all() or of_cell["missing"].any():
            continue
        best = of_cell.loc[of_cell["mean"].idxmin()]
        tried = of_cell["lr"]
        fit = fit_optima({"own": cells[key]})
        own = fit.cells["own"] if fit else None
        is_extreme = len(tried) > 1 and best["lr"] in (tried.min(), tried.max())
        is_tied = own is not None and not math.isnan(own.log2_lr.error) and not own.is_inside
        chosen.append(
            best.to_dict()
            | {
                "tried": len(tried),
                "edge": is_extreme or is_tied,
                "fitted_lr": 2**own.log2_lr.value if own else math.nan,
                "fitted_loss": own.loss.value if own else math.nan,
                "fitted_ci95": own.loss.interval(0.95)[1] - own.loss.value if own else math.nan,
            }
        )
    added = ["tried", "edge", "fitted_lr", "fitted_loss", "fitted_ci95"]
    best = pd.DataFrame(chosen, columns=[*sweep.columns, *added])
    # Columns of a frame without rows would be of dtype object.
    return best.astype(dict(sweep.dtypes) | dict.fromkeys(added[2:], float))


def by_seed(cell: pd.DataFrame, column: str = "final_val_loss") -> pd.Series:
    """Return the losses of one cell by seed: inf for a diverged run, NaN for a missing one.

    Args:
        cell: runs that differ in their seeds alone. Of several runs with one seed the first counts.
        column: name of the column with the losses.
    """
    cell = cell.drop_duplicates("seed").set_index("seed").sort_index()
    return cell[column].where(cell["status"] != Status.DIVERGED, math.inf).astype(float)


def show(row: pd.Series) -> str:
    """Return a row of `final_losses` as text: the mean, or why there is none."""
    gaps = [f"{row[status]} {status}" for status in ("diverged", "missing") if row[status]]
    if gaps:
        return f"{', '.join(gaps)} of {row['n']}"
    return f"{Estimate(row['mean'], row['ci95'], row['n'])} (n={row['n']})"


def show_lr(row: pd.Series) -> str:
    """Return the learning rate of a row of `best_lr` as text, marked if at the sweep's edge."""
    return number(row["lr"]) + (", edge" if row["edge"] else "")


def show_own(row: pd.Series) -> str:
    """Return a row of `best_lr` as text: the best cell, its rate, and the fitted optimum if any."""
    best = f"{show(row)} [{show_lr(row)}"
    if math.isnan(row["fitted_loss"]):
        return f"{best}]"
    half = "" if math.isnan(row["fitted_ci95"]) else f" ± {row['fitted_ci95']:.3f}"
    return f"{best}; fit {row['fitted_loss']:.3f}{half} at {row['fitted_lr']:.2g}]"
