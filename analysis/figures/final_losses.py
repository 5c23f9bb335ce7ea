"""Figures of final losses over learning rate and over optimizer state."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.estimates.losses import best_lr, final_losses, is_shared, is_sweep, protocols
from analysis.figures import canvas
from analysis.figures.line_styles import style_of
from analysis.figures.point_labels import Point, label_points
from analysis.frames import Results
from analysis.text import number


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
    axis.set(
        xscale="log",
        xlim=(data["lr"].min() / 1.3, data["lr"].max() * 1.3),
        xlabel="peak learning rate",
        ylabel="final validation loss (nats per token)",
        title=", ".join(results.runs["model"].unique()),
    )
    rates = sorted(data["lr"].unique())
    axis.set_xticks(rates, [number(rate) for rate in rates], rotation=45)
    axis.xaxis.set_minor_locator(NullLocator())
    shown = data["mean"].dropna()
    if len(shown):
        margin = 0.08 * (shown.max() - shown.min()) or 0.1
        axis.set_ylim(shown.min() - margin, shown.max() + margin)
    canvas.draw_levels(axis, results.runs)
    top = axis.get_ylim()[1]
    diverged = data[data["diverged"] > 0]
    for row in diverged.itertuples():
        axis.plot(row.lr, top, "x", color=style_of(row.optimizer)["color"], clip_on=False)
    ends = data.dropna(subset="mean").sort_values("lr").groupby("label", sort=False).last()
    labels = [
        (row["mean"], label, style_of(row["optimizer"])["color"]) for label, row in ends.iterrows()
    ]
    canvas.label_ends(axis, float(data["lr"].max()), labels)
    canvas.name_missing_runs(axis, results.runs)
    return figure, canvas.with_levels(data, results.runs)


def loss_over_state(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the final validation loss over optimizer state in bytes per parameter.

    This is the trade-off that the paper is about. Filled markers have the shared learning rate,
    open markers the best one of the optimizer's sweep, or the one that was given to it instead of
    the shared one. A cross at the top marks a divergence.
    """
    runs = results.runs[results.runs["argument"] == ""]
    size = (runs["state_bytes"] / runs["parameters"]).groupby(runs["optimizer"]).mean()
    own = best_lr(runs[is_sweep(runs)]).assign(protocol="own best lr")
    data = pd.concat([_planned(runs), own], ignore_index=True)
    data["state_bytes_per_parameter"] = data["optimizer"].map(size)
    figure, (axis,) = canvas.new(height=3.2)
    figure.set_figwidth(canvas.PAGE_WIDTH)
    measured = data.dropna(subset="state_bytes_per_parameter")
    placed = measured.dropna(subset="mean")
    for row in placed.itertuples():
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
    _scale(axis, measured["state_bytes_per_parameter"], placed["mean"])
    canvas.draw_levels(axis, results.runs)
    top = axis.get_ylim()[1]
    diverged = measured[measured["diverged"] > 0].assign(mean=top)
    for row in diverged.itertuples():
        color = style_of(row.optimizer)["color"]
        axis.plot(row.state_bytes_per_parameter, top, "x", color=color, clip_on=False)
    axis.set(
        xlabel="optimizer state (bytes per parameter)",
        ylabel="final validation loss (nats per token)",
        title=", ".join(results.runs["model"].unique()),
    )
    marked = pd.concat([placed, diverged])
    once = marked["label"].where(~marked.duplicated("optimizer"), "")
    places = marked[["state_bytes_per_parameter", "mean"]].itertuples(index=False)
    colors = [style_of(optimizer)["color"] for optimizer in marked["optimizer"]]
    label_points(axis, [Point(*at, *rest) for at, *rest in zip(places, once, colors, strict=True)])
    canvas.name_missing_runs(axis, results.runs)
    return figure, canvas.with_levels(data, results.runs)


def _planned(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the final losses at the shared learning rate, or at the rates given instead of it."""
    shared = is_shared(runs)
    has_shared = shared.groupby(runs["optimizer"]).transform("any")
    losses = final_losses(runs[shared | ~(has_shared | is_sweep(runs))])
    return losses.assign(protocol=protocols(losses))


def _scale(axis: Axes, sizes: pd.Series, means: pd.Series) -> None:
    """Set the scale and range of state sizes, and the range of mean losses."""
    if sizes.empty:
        return
    if sizes.all():
        axis.set_xscale("log", base=2)
        axis.set_xlim(sizes.min() / 2, sizes.max() * 1.7)
    else:  # some optimizer has no state, so the scale is linear below the smallest other
        least = sizes[sizes > 0].min() if sizes.any() else 1.0
        axis.set_xscale("symlog", base=2, linthresh=least)
        axis.set_xlim(-least, max(sizes.max(), least) * 1.7)
    if len(means):
        margin = 0.1 * (means.max() - means.min()) or 0.1
        axis.set_ylim(means.min() - margin, means.max() + margin)
    axis.xaxis.set_major_formatter("{x:g}")
