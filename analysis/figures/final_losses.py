"""Figures of final losses over learning rate and over optimizer state."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.line_styles import style_of
from analysis.frames import Results
from analysis.losses import best_lr, final_losses, is_shared


def loss_over_lr(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the final validation loss of every optimizer over the peak learning rate.

    A line is broken at a rate at which a seed is missing or diverged. A cross at the top marks a
    rate at which one diverged. A ring marks the best rate.
    """
    data = final_losses(results.runs)
    best = best_lr(results.runs).set_index("optimizer")["lr"].to_dict()
    data["best"] = [best.get(row.optimizer) == row.lr for row in data.itertuples()]
    figure, (axis,) = canvas.new(height=3.2)
    figure.set_figwidth(canvas.PAGE_WIDTH * 0.7)
    for optimizer, rows in data.sort_values("lr").groupby("optimizer", sort=False):
        style = style_of(optimizer)
        axis.errorbar(rows["lr"], rows["mean"], rows["ci95"], capsize=2, markersize=3, **style)
        ring = rows[rows["best"]]
        axis.plot(
            ring["lr"],
            ring["mean"],
            "o",
            markersize=8,
            markerfacecolor="none",
            color=style["color"],
        )
    shown = data["mean"].dropna()
    if len(shown):
        margin = 0.08 * (shown.max() - shown.min()) or 0.1
        axis.set_ylim(shown.min() - margin, shown.max() + margin)
    top = axis.get_ylim()[1]
    diverged = data[data["diverged"] > 0]
    for row in diverged.itertuples():
        axis.plot(row.lr, top, "x", color=style_of(row.optimizer)["color"], clip_on=False)
    axis.set(
        xscale="log",
        xlim=(data["lr"].min() / 1.3, data["lr"].max() * 1.3),
        xlabel="peak learning rate",
        ylabel="final validation loss (nats per token)",
        title=", ".join(results.runs["model"].unique()),
    )
    ends = data.dropna(subset="mean").sort_values("lr").groupby("label", sort=False).last()
    labels = [
        (row["mean"], label, style_of(row["optimizer"])["color"]) for label, row in ends.iterrows()
    ]
    canvas.label_ends(axis, float(data["lr"].max()), labels)
    canvas.name_missing_runs(axis, results.runs)
    return figure, data


def loss_over_state(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the final validation loss over optimizer state in bytes per parameter.

    This is the trade-off that the paper is about. Filled markers have the shared learning rate,
    open markers each optimizer's own best.
    """
    runs = results.runs[results.runs["argument"] == ""]
    size = (runs["state_bytes"] / runs["parameters"]).groupby(runs["optimizer"]).mean()
    shared = final_losses(runs[is_shared(runs)]).assign(protocol="shared lr")
    own = best_lr(runs).assign(protocol="own best lr")
    data = pd.concat([shared, own], ignore_index=True)
    data["state_bytes_per_parameter"] = data["optimizer"].map(size)
    figure, (axis,) = canvas.new(height=3.2)
    figure.set_figwidth(canvas.PAGE_WIDTH)
    for row in data.dropna(subset=["mean", "state_bytes_per_parameter"]).itertuples():
        style = style_of(row.optimizer)
        axis.errorbar(
            row.state_bytes_per_parameter,
            row.mean,
            row.ci95,
            color=style["color"],
            marker=style["marker"],
            markersize=5,
            elinewidth=0.5,
            markerfacecolor=style["color"] if row.protocol == "shared lr" else "white",
        )
    sizes = data["state_bytes_per_parameter"].dropna()
    least = sizes[sizes > 0].min() if sizes.any() else 1.0
    if len(sizes):
        if sizes.all():
            axis.set_xscale("log", base=2)
            axis.set_xlim(least / 2.5, sizes.max() * 1.3)
        else:  # some optimizer has no state, so the scale is linear below the smallest other
            axis.set_xscale("symlog", base=2, linthresh=least)
            axis.set_xlim(-least, max(sizes.max(), least) * 1.3)
        means = data["mean"].dropna()
        if len(means):
            margin = 0.1 * (means.max() - means.min()) or 0.1
            axis.set_ylim(means.min() - margin, means.max() + margin)
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set(
        xlabel="optimizer state (bytes per parameter)",
        ylabel="final validation loss (nats per token)",
        title=", ".join(results.runs["model"].unique()),
    )
    placed = data.dropna(subset=["mean", "state_bytes_per_parameter"])
    placed = placed.drop_duplicates("optimizer")
    # Labels of nearly equal sizes share a column, since they would overlap otherwise. They are left
    # of their markers, where there is more room; only those of the last column are on the right.
    column = np.log2(placed["state_bytes_per_parameter"].clip(lower=least / 4)).round()
    for size, cells in placed.groupby(column):
        labels = [
            (row.mean, row.label, style_of(row.optimizer)["color"]) for row in cells.itertuples()
        ]
        is_last = size == column.max()
        x = cells["state_bytes_per_parameter"].agg("max" if is_last else "min")
        canvas.label_ends(axis, float(x), labels, "right" if is_last else "left")
    canvas.name_missing_runs(axis, results.runs)
    return figure, data
