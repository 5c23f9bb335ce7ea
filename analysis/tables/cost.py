"""Tables of what a step costs, and of how long each optimizer takes to AdamW's final loss."""

import math
from collections.abc import Iterator

import pandas as pd

from analysis.frames import ENDED, Results
from analysis.losses import best_lr, is_sweep, protocols
from analysis.tables.cells import Table, labelled, row_names
from analysis.text import MISSING

_CELL = ["optimizer", "label", "argument", "value", "lr"]


def cost(results: Results) -> Table:
    """Return what a step costs, and the state's bytes per parameter, measured in the runs.

    Times are medians over a run's steps, then means over seeds; several runs share the machine.
    """
    runs = results.runs[~is_sweep(results.runs)]
    rows = []
    for (model, optimizer, label), cell in runs.groupby(
        ["model", "optimizer", "label"], sort=False
    ):
        ended = cell[cell["status"].isin(ENDED)]
        rows.append(
            {
                "model": model,
                "optimizer": optimizer,
                "label": label,
                "n": len(ended),
                "state_bytes_per_parameter": (ended["state_bytes"] / ended["parameters"]).mean(),
                "tokens_per_second": ended["tokens_per_second"].mean(),
                "optimizer_seconds": ended["optimizer_seconds"].mean(),
                "peak_memory_bytes": ended["peak_memory_bytes"].mean(),
            }
        )
    numbers = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "state (bytes/param)": numbers["state_bytes_per_parameter"].map("{:.3f}".format),
            "tokens/s": numbers["tokens_per_second"].map("{:,.0f}".format),
            "optimizer step (ms)": (numbers["optimizer_seconds"] * 1e3).map("{:.1f}".format),
            "peak memory (MiB)": (numbers["peak_memory_bytes"] / 2**20).map("{:,.0f}".format),
            "n": numbers["n"],
        }
    ).where(numbers["n"] > 0, MISSING)
    shown.insert(0, "model", numbers["model"])
    return numbers, shown.set_index(pd.Index(numbers["label"], name="optimizer"))


def time_to_target(results: Results) -> Table:
    """Return the steps and tokens to AdamW's final loss of the same seed, under both protocols."""
    numbers = steps_to_target(results)
    columns = {}
    for (model, protocol), cells in numbers.groupby(["model", "protocol"], sort=False):
        for what in ("steps", "tokens"):
            shown = [_show_target(row, what) for _, row in cells.iterrows()]
            columns[f"{model}, {protocol}: {what}"] = dict(
                zip(row_names(cells), shown, strict=True)
            )
    return numbers, labelled(columns, list(dict.fromkeys(row_names(numbers))))


def steps_to_target(results: Results) -> pd.DataFrame:
    """Return the steps and tokens to AdamW's final validation loss, seed by seed, then their means.

    The target of a seed is what AdamW reached with it under the same protocol. A run that ends, or
    diverges, before it reaches its target is censored: no mean is given then.

    Returns:
        One row for each model, protocol (of `losses.protocols`, or "own best lr"), optimizer and
        value of a varied argument, with label, argument, value, lr, n (seeds that have a target and
        a run), censored (how many of them), steps and tokens (means), last_steps and last_tokens
        (of the longest run: all that censoring leaves known).
    """
    rows = []
    for model, protocol, runs in _compared(results.runs):
        adamw = runs[(runs["optimizer"] == "adamw") & (runs["argument"] == "")]
        targets = adamw.drop_duplicates("seed").set_index("seed")["final_val_loss"].dropna()
        for key, cell in runs.groupby(_CELL, sort=False):
            rows.append(
                {"model": model, "protocol": protocol}
                | dict(zip(_CELL, key, strict=True))
                | _reached(cell, targets, results.metrics)
            )
    return pd.DataFrame(rows)


def _compared(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield model, protocol and runs of what is compared with one AdamW."""
    for (model, _), at_lr in runs[~is_sweep(runs)].groupby(["model", "lr"], sort=False):
        yield model, protocols(at_lr)[0], at_lr
    keys = ["model", "optimizer", "argument", "value", "lr"]
    own = runs[is_sweep(runs)].merge(best_lr(runs)[keys], on=keys)
    for model, of_model in own.groupby("model", sort=False):
        yield model, "own best lr", of_model


def _reached(cell: pd.DataFrame, targets: pd.Series, metrics: pd.DataFrame) -> dict[str, float]:
    """Return how one optimizer's runs met the targets of their seeds."""
    hits, lasts = [], []
    for run, seed in cell.loc[cell["status"].isin(ENDED), ["run", "seed"]].itertuples(index=False):
        if seed not in targets.index:
            continue
        rows = metrics[(metrics["run"] == run) & metrics["val_loss"].notna()]
        hit = rows[rows["val_loss"] <= targets[seed]]
        lasts.append(metrics.loc[metrics["run"] == run, ["step", "tokens"]].max())
        if len(hit):
            hits.append(hit[["step", "tokens"]].iloc[0])
    complete = len(hits) == len(lasts) > 0
    mean = pd.DataFrame(hits).mean() if complete else {"step": math.nan, "tokens": math.nan}
    last = pd.DataFrame(lasts, columns=["step", "tokens"]).max()
    return {
        "n": len(lasts),
        "censored": len(lasts) - len(hits),
        "steps": mean["step"],
        "tokens": mean["tokens"],
        "last_steps": last["step"],
        "last_tokens": last["tokens"],
    }


def _show_target(row: pd.Series, what: str) -> str:
    if row["n"] == 0:
        return MISSING
    if row["censored"]:
        return f"> {row[f'last_{what}']:,.0f} in {row['censored']} of {row['n']}"
    return f"{row[what]:,.0f} (n={row['n']})"
