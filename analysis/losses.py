"""Final losses under both protocols: at the shared learning rate, and at each optimizer's best."""

import math

import pandas as pd

from analysis.statistics import Estimate, estimate
from analysis.text import number

_CELL = ["model", "optimizer", "label", "argument", "value", "lr"]


def is_shared(runs: pd.DataFrame) -> pd.Series:
    """Tell which runs have the learning rate that all optimizers of their model share."""
    return runs["lr"] == runs["shared_lr"]


def is_sweep(runs: pd.DataFrame) -> pd.Series:
    """Tell which runs are of the experiment that sweeps the learning rate."""
    return runs["experiment"] == "learning_rate"


def protocols(runs: pd.DataFrame) -> list[str]:
    """Name the protocol of each run: "shared lr", or such as "lr 0.003" at any other rate."""
    return [
        "shared lr" if shared else f"lr {number(lr)}"
        for lr, shared in zip(runs["lr"], is_shared(runs), strict=True)
    ]


def final_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the final validation loss of each cell of a table over its seeds.

    A mean is given only where every planned seed completed: one that left the diverged seeds out
    would flatter the optimizer.

    Args:
        runs: with the columns of `analysis.frames.Results.runs`.

    Returns:
        One row for each model, optimizer, label, argument, value and lr, with shared_lr, mean and
        ci95 (half width; both in nats per token), n (seeds planned), diverged and missing (seeds).
    """
    unique = runs.drop_duplicates([*_CELL, "seed"])
    rows = []
    for key, cell in unique.groupby(_CELL, sort=False):
        counts = cell["status"].value_counts()
        complete = (cell["status"] == "completed").all()
        over_seeds = estimate(cell["final_val_loss"]) if complete else None
        rows.append(
            dict(zip(_CELL, key, strict=True))
            | {
                "shared_lr": cell["shared_lr"].iloc[0],
                "mean": over_seeds.mean if over_seeds else None,
                "ci95": over_seeds.half_width if over_seeds else None,
                "n": len(cell),
                "diverged": int(counts.get("diverged", 0)),
                "missing": int(len(cell) - counts.get("diverged", 0) - counts.get("completed", 0)),
            }
        )
    columns = [*_CELL, "shared_lr", "mean", "ci95", "n", "diverged", "missing"]
    numbers = ("lr", "shared_lr", "mean", "ci95")
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))


def best_lr(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each optimizer's best learning rate of the experiment `learning_rate`.

    The best has the lowest mean final validation loss of those at which every seed completed. It is
    chosen on the losses that are then reported, which flatters all optimizers a little, and
    equally: each has as many values to choose from. So one whose sweep has missing runs has none.

    Returns:
        The rows of `final_losses` that were chosen, with `tried` (number of values) and `edge`
        (whether the best is the lowest or the highest of them, so that a better one may lie
        beyond). Optimizers that diverged at every value have no row.
    """
    sweep = final_losses(runs[is_sweep(runs)])
    chosen = []
    for _, of_optimizer in sweep.groupby(["model", "optimizer"], sort=False):
        if of_optimizer["mean"].isna().all() or of_optimizer["missing"].any():
            continue
        best = of_optimizer.loc[of_optimizer["mean"].idxmin()]
        tried = of_optimizer["lr"]
        edge = len(tried) > 1 and best["lr"] in (tried.min(), tried.max())
        chosen.append(best.to_dict() | {"tried": len(tried), "edge": edge})
    best = pd.DataFrame(chosen, columns=[*sweep.columns, "tried", "edge"])
    return best.astype(dict(sweep.dtypes))  # also where no row was chosen


def by_seed(cell: pd.DataFrame, column: str = "final_val_loss") -> pd.Series:
    """Return a column of one cell's runs by seed: inf where one diverged, NaN where it is missing.

    Args:
        cell: runs that differ by their seeds alone; one that stands twice counts once.
        column: of losses.
    """
    cell = cell.drop_duplicates("seed").set_index("seed").sort_index()
    return cell[column].where(cell["status"] != "diverged", math.inf).astype(float)


def show(row: pd.Series) -> str:
    """Return a row of `final_losses` as a cell for readers: the mean, or what is in its way."""
    gaps = [f"{row[what]} {what}" for what in ("diverged", "missing") if row[what]]
    if gaps:
        return f"{', '.join(gaps)} of {row['n']}"
    return f"{Estimate(row['mean'], row['ci95'], row['n'])} (n={row['n']})"


def show_lr(row: pd.Series) -> str:
    """Return a row of `best_lr` as its learning rate, flagged where it is the edge of the sweep."""
    return number(row["lr"]) + (", edge" if row["edge"] else "")
