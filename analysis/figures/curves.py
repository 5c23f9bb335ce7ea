"""Figures of losses over steps, tokens and time."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analysis.figures import canvas
from analysis.figures.line_styles import (
    Style,
    dash_pattern,
    distinct_colors,
    ordered_styles,
    style_of,
)
from analysis.frames import Results
from analysis.text import number
from experiments.intervals import t_interval
from experiments.runs.summary import Status

SMOOTHING = 20  # window of the rolling mean of the training loss, in logged steps
_SYMBOLS = {"beta": "β", "gamma": "γ"}


def loss_curves(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw training and validation loss over steps.

    If every planned seed completed, a line is the mean over seeds with its 95 % interval. Otherwise
    each existing seed has its own thin line, since a mean over the remaining seeds would flatter. A
    diverged seed is drawn up to the divergence, which a cross marks.
    """
    drawn = [
        _loss_of_steps(line, results.metrics, panel, window)
        for panel, window in (("train", SMOOTHING), ("validation", 1))
        for line in _lines(results.runs)
    ]
    data = _joined(drawn)
    figure, axes = canvas.new(columns=2)
    for axis, panel in zip(axes, ("train", "validation"), strict=True):
        _draw(axis, data[data["panel"] == panel], results.runs, "step")
        axis.set_xlabel("step")
        axis.set_title(f"{_subject(results.runs)}: {_TITLES[panel]}", parse_math=False)
    axes[0].set_ylabel("loss (nats per token)")
    _label(axes[1], data[data["panel"] == "validation"], results.runs, "step")
    canvas.name_missing_runs(axes[0], results.runs)
    return figure, canvas.with_levels(data, results.runs)


def loss_over_cost(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the validation loss over tokens and over training time.

    Training time is the number of steps times the run's median time of a step, so it excludes
    validation and start-up. Lines are drawn as in `loss_curves`.
    """
    data = _joined(
        _loss_of_steps(line, results.metrics, "validation", 1) for line in _lines(results.runs)
    )
    figure, axes = canvas.new(columns=2)
    for axis, x in zip(axes, ("tokens", "minutes"), strict=True):
        _draw(axis, data, results.runs, x)
        axis.set_xlabel(x)
        axis.set_title(_subject(results.runs), parse_math=False)
        axis.locator_params(axis="x", nbins=5)
    axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].set_ylabel("validation loss (nats per token)")
    _label(axes[1], data, results.runs, "minutes")
    canvas.name_missing_runs(axes[0], results.runs)
    return figure, canvas.with_levels(data, results.runs)


_TITLES = {"train": "training", "validation": "validation"}
_COLUMNS = ["panel", "line", "seed", "step", "tokens", "minutes", "loss", "low", "high", "n"]


def _lines(runs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the runs of each line, one for each seed, with the column `line` for its name."""
    for _, line in runs.assign(line=_names(runs)).groupby("line", sort=False):
        yield line.drop_duplicates("seed")


def _names(runs: pd.DataFrame) -> list[str]:
    """Return the name of each run's line: the settings in which the lines differ."""
    several_labels, several_rates = runs["label"].nunique() > 1, _has_several_rates(runs)
    names = []
    for row in runs.itertuples():
        parts = [row.label] if several_labels or not (row.argument or several_rates) else []
        if row.argument:
            parts.append(f"{_SYMBOLS.get(row.argument, row.argument)} = {row.value}")
        if several_rates:
            parts.append(f"lr {number(row.lr)}")
        names.append(", ".join(parts))
    return names


def _has_several_rates(runs: pd.DataFrame) -> bool:
    """Return whether a line is more than its optimizer, because one has several learning rates."""
    return bool((runs.groupby("label")["lr"].nunique() > 1).any())


def _styles(runs: pd.DataFrame) -> dict[str, Style]:
    """Return the style of each line: its optimizer's, or ordered styles if all have the same."""
    lines = runs.assign(line=_names(runs)).drop_duplicates("line")
    if lines["optimizer"].nunique() == 1 and len(lines) > 1:
        return dict(zip(lines["line"], ordered_styles(len(lines)), strict=True))
    styles = {row.line: style_of(row.optimizer) for row in lines.itertuples()}
    if _has_several_rates(runs):  # colours distinguish optimizers, dashes the learning rates
        rates, colors = sorted(lines["lr"].unique()), distinct_colors(lines["optimizer"].unique())
        for row in lines.itertuples():
            dashes = dash_pattern(rates.index(row.lr))
            styles[row.line] |= {"color": colors[row.optimizer], "linestyle": dashes}
    return styles


def _loss_of_steps(
    line: pd.DataFrame, metrics: pd.DataFrame, panel: str, window: int
) -> pd.DataFrame:
    """Return the data of one line: the mean over seeds, or each seed if one did not complete."""
    column = "train_loss" if panel == "train" else "val_loss"
    rows = metrics[metrics["run"].isin(line["run"]) & np.isfinite(metrics[column].astype(float))]
    rows = rows.merge(line[["run", "seed", "line"]], on="run")
    # Of all logged steps, as in the summary, and not only of those with a validation.
    seconds = metrics.groupby("run")["step_seconds"].median()
    rows = rows.assign(minutes=rows["step"] * rows["run"].map(seconds).astype(float) / 60)
    losses = rows.pivot_table(index="step", columns="seed", values=column, observed=True)
    losses = losses.astype(float)
    # Without `where`, the rolling mean would continue after the last step of a seed.
    losses = losses.rolling(window, min_periods=1).mean().where(losses.notna())
    cost = rows.groupby("step")[["tokens", "minutes"]].mean()
    if (line["status"] == Status.COMPLETED).all():
        losses = losses.dropna()  # a mean over the remaining seeds would flatter
        mean, half = t_interval(losses)
        shown = pd.DataFrame(
            {"loss": mean, "low": mean - half, "high": mean + half}, index=losses.index
        )
        shown = shown.join(cost).reset_index().assign(seed="", n=losses.shape[1])
    else:
        shown = losses.melt(ignore_index=False, var_name="seed", value_name="loss").dropna()
        shown = shown.join(cost).reset_index().assign(low=np.nan, high=np.nan, n=1)
    return shown.assign(panel=panel, line=line["line"].iloc[0])[_COLUMNS]


def _joined(frames: Iterator[pd.DataFrame] | list[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=_COLUMNS)


def _draw(axis: Axes, data: pd.DataFrame, runs: pd.DataFrame, x: str) -> None:
    """Draw every line and seed of `data`; the range of y suits the runs that did not diverge."""
    styles = _styles(runs)
    status = runs.assign(line=_names(runs)).set_index(["line", "seed"])["status"].to_dict()
    curves = {True: [], False: []}  # keys: whether the run diverged
    opacity = min(0.15, 0.6 / len(styles))  # so that many overlapping bands stay light
    for (line, seed), rows in data.groupby(["line", "seed"], sort=False):
        style = {key: styles[line][key] for key in ("color", "linestyle")}
        width = 1.2 if seed == "" else 0.6
        axis.plot(rows[x], rows["loss"], label=line, linewidth=width, **style)
        axis.fill_between(
            rows[x].astype(float),
            rows["low"].astype(float),
            rows["high"].astype(float),
            color=style["color"],
            alpha=opacity,
            linewidth=0,
        )
        has_diverged = status.get((line, seed)) == Status.DIVERGED
        curves[has_diverged].append((rows[x].to_numpy(), rows["loss"].to_numpy()))
    canvas.zoom(axis, curves[False] or curves[True])
    canvas.draw_levels(axis, runs)
    low, high = axis.get_ylim()
    for (line, seed), rows in data.groupby(["line", "seed"], sort=False):
        if status.get((line, seed)) == Status.DIVERGED:
            end = rows.iloc[-1]
            height = min(max(end["loss"], low), high)  # at the edge of the range if outside
            axis.plot(end[x], height, "x", color=styles[line]["color"], clip_on=False, markersize=4)


def _label(axis: Axes, data: pd.DataFrame, runs: pd.DataFrame, x: str) -> None:
    """Write the name of each line beside its last value."""
    styles = _styles(runs)
    ends = data.groupby(["line", "seed"], sort=False).last().groupby("line", sort=False)["loss"]
    labels = [(end, line, styles[line]["color"]) for line, end in ends.mean().items()]
    if labels:
        canvas.label_ends(axis, float(data[x].max()), labels)


def _subject(runs: pd.DataFrame) -> str:
    """Return the title of a figure: the model, and the optimizer if there is only one."""
    labels = runs["label"].unique()
    return ", ".join([*runs["model"].unique(), *(labels if len(labels) == 1 else [])])
