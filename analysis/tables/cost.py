"""How long each optimizer takes to AdamW's final loss."""

import math
from collections.abc import Iterator

import pandas as pd

from analysis.frames import ENDED, Results
from analysis.losses import best_lr
from analysis.text import number

_CELL = ["optimizer", "label", "argument", "value", "lr"]


def steps_to_target(results: Results) -> pd.DataFrame:
    """Return the steps and tokens to AdamW's final validation loss, seed by seed, then their means.

    The target of a seed is what AdamW reached with it under the same protocol. A run that ends, or
    diverges, before it reaches its target is censored: no mean is given then.

    Returns:
        One row for each model, protocol ("shared lr", with the rate where there are several, or
        "own best lr"), optimizer and value of a varied argument, with label, argument, value, lr, n
        (seeds that have a target and a run), censored (how many of them), steps and tokens (means),
        last_steps and last_tokens (of the longest run: all that censoring leaves known).
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
    is_sweep = runs["experiment"] == "learning_rate"
    for model, of_model in runs[~is_sweep].groupby("model", sort=False):
        for lr, at_lr in of_model.groupby("lr", sort=False):
            several = of_model["lr"].nunique() > 1
            yield model, f"shared lr {number(lr)}" if several else "shared lr", at_lr
    keys = ["model", "optimizer", "argument", "value", "lr"]
    own = runs[is_sweep].merge(best_lr(runs)[keys], on=keys)
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
