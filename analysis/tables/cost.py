"""Tables of the cost of a step and the final loss, and of the time to AdamW's final loss."""

import math
from collections.abc import Iterator

import pandas as pd

from analysis.estimates.losses import best_lr, final_losses, is_sweep, protocols
from analysis.frames import Results, origin_of
from analysis.tables.cells import Table, cell_texts, labelled, row_names
from analysis.text import MISSING, number
from experiments.runs.summary import ENDED

_CELL = ["optimizer", "label", "argument", "value", "lr"]


def cost(results: Results) -> Table:
    """Return the state, speed and peak memory of each optimizer, measured in its runs.

    Times are medians over a run's steps, then means over seeds. Runs may have shared the machine.
    """
    runs = results.runs[~is_sweep(results.runs)]
    numbers = _costs(runs, ["model", "optimizer", "label"])
    shown = _shown_costs(numbers).assign(n=numbers["n"]).where(numbers["n"] > 0, MISSING)
    shown.insert(0, "model", numbers["model"])
    return numbers, shown.set_index(pd.Index(numbers["label"], name="optimizer"))


def loss_and_cost(results: Results) -> Table:
    """Return the costs of each optimizer as in `cost`, and its final loss, sorted by its state."""
    costs = _costs(results.runs, ["model", *_CELL]).rename(columns={"n": "ended"})
    numbers = final_losses(results.runs).merge(costs, on=["model", *_CELL])
    model = numbers.groupby("model", sort=False).ngroup()
    numbers = numbers.assign(place=model).sort_values(
        ["place", "state_bytes_per_parameter"], kind="stable", ignore_index=True
    )
    numbers = numbers.drop(columns="place")
    shown = _shown_costs(numbers).where(numbers["ended"] > 0, MISSING)
    shown["final loss"] = cell_texts(numbers)
    shown.insert(0, "model", numbers["model"])
    shown.insert(1, "lr", numbers["lr"].map(number))
    return numbers, shown.set_index(pd.Index(row_names(numbers), name="optimizer"))


def _costs(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the mean costs of the runs that ended, one row for each cell of `keys`."""
    rows = []
    for key, cell in runs.groupby(keys, sort=False):
        ended = cell[cell["status"].isin(ENDED)]
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "n": len(ended),
                "state_bytes_per_parameter": (ended["state_bytes"] / ended["parameters"]).mean(),
                "tokens_per_second": ended["tokens_per_second"].mean(),
                "optimizer_seconds": ended["optimizer_seconds"].mean(),
                "peak_memory_bytes": ended["peak_memory_bytes"].mean(),
                "trained": " and ".join(sorted(origin_of(ended).unique(), reverse=True)),
            }
        )
    return pd.DataFrame(rows)


def _shown_costs(numbers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "state (bytes/param)": numbers["state_bytes_per_parameter"].map("{:.3f}".format),
            "tokens/s": numbers["tokens_per_second"].map("{:,.0f}".format),
            "optimizer step (ms)": (numbers["optimizer_seconds"] * 1e3).map("{:.2f}".format),
            "peak memory (MiB)": (numbers["peak_memory_bytes"] / 2**20).map("{:,.0f}".format),
            "trained": numbers["trained"],
        }
    )


def time_to_target(results: Results) -> Table:
    """Return the steps and tokens until AdamW's final loss is reached, under both protocols."""
    numbers = steps_to_target(results)
    columns = {}
    for (model, protocol), cells in numbers.groupby(["model", "protocol"], sort=False):
        for unit in ("steps", "tokens"):
            shown = [_show_target(row, unit) for _, row in cells.iterrows()]
            columns[f"{model}, {protocol}: {unit}"] = dict(
                zip(row_names(cells), shown, strict=True)
            )
    return numbers, labelled(columns, list(dict.fromkeys(row_names(numbers))))


def steps_to_target(results: Results) -> pd.DataFrame:
    """Return the mean steps and tokens until AdamW's final validation loss is reached.

    The target of a run is the final loss of AdamW with the same seed under the same protocol. A run
    that ends or diverges before it reaches its target is censored. There is no mean over seeds if
    one of their runs is censored.

    Returns:
        One row for each model, protocol (of `losses.protocols`, or "own best lr"), optimizer and
        value of a varied argument. The other columns are label, argument, value, lr, n (seeds with
        a target and an ended run), censored (number of these), steps and tokens (means),
        last_steps and last_tokens (of the longest run, a lower bound if it is censored).
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
    """Yield model, protocol and runs of each group that is compared with one AdamW."""
    for (model, _), at_lr in runs[~is_sweep(runs)].groupby(["model", "lr"], sort=False):
        yield model, protocols(at_lr)[0], at_lr
    keys = ["model", "optimizer", "argument", "value", "lr"]
    own = runs[is_sweep(runs)].merge(best_lr(runs[is_sweep(runs)])[keys], on=keys)
    for model, of_model in own.groupby("model", sort=False):
        yield model, "own best lr", of_model


def _reached(cell: pd.DataFrame, targets: pd.Series, metrics: pd.DataFrame) -> dict[str, float]:
    """Return the columns of `steps_to_target` from n on, for the runs of one optimizer."""
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


def _show_target(row: pd.Series, unit: str) -> str:
    if row["n"] == 0:
        return MISSING
    if row["censored"]:
        return f"> {row[f'last_{unit}']:,.0f} in {row['censored']} of {row['n']}"
    return f"{row[unit]:,.0f} (n={row['n']})"
