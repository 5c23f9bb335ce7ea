"""How long each optimizer takes to AdamW's final loss."""

import math

import pandas as pd

from analysis.frames import ENDED, Results
from analysis.losses import best_lr


def steps_to_target(results: Results) -> pd.DataFrame:
    """Return the steps and tokens to AdamW's final validation loss, seed by seed, then their means.

    The target of a seed is what AdamW reached with it under the same protocol. A run that ends, or
    diverges, before it reaches its target is censored: no mean is given then.

    Returns:
        One row for each model, protocol ("shared lr" or "own best lr") and optimizer, with label,
        lr, n (seeds that have a target and a run), censored (how many of them), steps and tokens
        (means), last_steps and last_tokens (of the longest run: all that censoring leaves known).
    """
    runs = results.runs
    shared = runs[(runs["experiment"] != "learning_rate")]
    best = best_lr(runs)[["model", "optimizer", "lr"]]
    own = runs[runs["experiment"] == "learning_rate"].merge(best, on=["model", "optimizer", "lr"])
    rows = []
    for protocol, chosen in (("shared lr", shared), ("own best lr", own)):
        for model, of_model in chosen.groupby("model", sort=False):
            adamw = of_model[of_model["optimizer"] == "adamw"].set_index("seed")["final_val_loss"]
            for (optimizer, label, lr), cell in of_model.groupby(
                ["optimizer", "label", "lr"], sort=False
            ):
                key = {"model": model, "protocol": protocol, "optimizer": optimizer}
                reached = _reached(cell, adamw.dropna(), results.metrics)
                rows.append(key | {"label": label, "lr": lr} | reached)
    return pd.DataFrame(rows)


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
