"""Code that all figures share: size, output, labels of lines, missing runs, range of losses."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from analysis.estimates.levels import levels
from experiments.files import atomic
from experiments.runs.summary import ENDED

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Argument of plt.style.context. The defaults come first to undo the user's matplotlibrc.
STYLE = ("default", Path(__file__).parent / "style.mplstyle")
COLUMN_WIDTH, PAGE_WIDTH = 3.3, 6.8  # inches

Label = tuple[float, str, object]  # y in data coordinates, text, colour


def new(columns: int = 1, rows: int = 1, height: float = 2.4) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its axes in reading order; with one column it has a column's width."""
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False)
    return figure, axes.ravel()


def write(figure: Figure, data: pd.DataFrame, target: Path) -> None:
    """Write a figure as PDF and PNG, and its data as CSV; then close it.

    Args:
        figure: the figure.
        data: the numbers that it shows.
        target: path of the three files, without a suffix.
    """
    for suffix, metadata in {".pdf": {"CreationDate": None}, ".png": None}.items():
        with atomic(target.with_name(f"{target.name}{suffix}")) as path:
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # the first file has laid it out, which takes long
    with atomic(target.with_name(f"{target.name}.csv")) as path:
        data.to_csv(path, index=False)
    plt.close(figure)


def label_ends(axis: Axes, x: float, labels: Sequence[Label], side: str = "right") -> None:
    """Write labels beside `x`, each as close to its height as the other labels allow.

    A thin line connects each height with its label.

    Args:
        axis: axes with their final range of y.
        x: position of the labels' column, in data coordinates.
        labels: labels in any order.
        side: side of `x` on which the labels are, "right" or "left".
    """
    if not labels:
        return
    low, high = axis.get_ylim()
    to_display = axis.transData.transform
    height_pt = (to_display((x, high))[1] - to_display((x, low))[1]) * 72 / axis.figure.dpi
    gap = 1.15 * mpl.rcParams["legend.fontsize"] / height_pt  # as a fraction of the axes' height
    ordered = sorted(labels, key=lambda label: label[0])
    wanted = [min(max((y - low) / (high - low), 0.0), 1.0) for y, _, _ in ordered]
    for (_, text, color), start, end in zip(ordered, wanted, spread(wanted, gap), strict=True):
        axis.annotate(
            text,
            xy=(x, start),
            xycoords=("data", "axes fraction"),
            xytext=(12 if side == "right" else -12, (end - start) * height_pt),
            textcoords="offset points",
            color=color,
            fontsize=mpl.rcParams["legend.fontsize"],
            horizontalalignment="left" if side == "right" else "right",
            verticalalignment="center",
            annotation_clip=False,
            parse_math=False,  # a label may contain dollar signs
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.4,
                "relpos": (
                    0 if side == "right" else 1,
                    0.5,
                ),  # the line ends at the edge of the label
            },
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move sorted heights apart until neighbours differ by at least `gap`.

    Heights that are too close form a group, which is spread around its mean. Heights stay between 0
    and 1 if there is room for all of them.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    placed = [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]
    last = len(placed) - 1
    top = max(1.0, gap * last)
    return [max(gap * i, min(y, top - gap * (last - i))) for i, y in enumerate(placed)]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)


def name_missing_runs(axis: Axes, runs: pd.DataFrame) -> None:
    """Write the missing runs of a figure into its lower left corner."""
    missing = runs[~runs["status"].isin(ENDED)].drop_duplicates("run")
    if missing.empty:
        return
    named = [f"{row.label} seed {row.seed}" for row in missing.itertuples()]
    few = len(named) <= 3
    text = ", ".join(named) if few else f"{len(named)} of {runs['run'].nunique()} runs"
    axis.text(
        0.02,
        0.02,
        f"missing: {text}",
        transform=axis.transAxes,
        fontsize=6,
        fontstyle="italic",
        parse_math=False,
    )


def draw_levels(axis: Axes, runs: pd.DataFrame) -> None:
    """Draw the losses of a unigram and of a bigram model as lines, once the ranges are set.

    The ranges stay as they are. A level outside of them is written at the edge, with its value.

    Args:
        axis: axes with their curves, whose y is a loss in nats per token.
        runs: the runs that it shows, with the columns unigram_loss and bigram_loss.
    """
    to_axes = axis.transData - axis.transAxes
    taken = [to_axes.transform(line.get_xydata()) for line in axis.lines]
    low, high = axis.get_ylim()
    for height, text, offset in _level_names(levels(runs), low, high):
        if 0 < height < 1:
            axis.axhline(low + height * (high - low), color="0.6", linewidth=0.6, zorder=0)
        left, right = (_clearance(taken, at, height) for at in (0.0, 1 - _NAME_WIDTH))
        is_left = left > right
        axis.annotate(
            text,
            xy=(0.02 if is_left else 0.99, height),
            xycoords="axes fraction",
            xytext=(0, offset),
            textcoords="offset points",
            horizontalalignment="left" if is_left else "right",
            verticalalignment="bottom" if offset > 0 else "top",
            fontsize=6,
            color="0.4",
        )
        begin = 0.0 if is_left else 1 - _NAME_WIDTH
        taken.append(np.array([[begin, height], [begin + _NAME_WIDTH, height]]))


def with_levels(data: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the data of a figure with the levels that `draw_levels` draws, as two columns."""
    return data.assign(**{f"{name}_loss": level for name, level in levels(runs).items()})


_NAME_WIDTH = 0.3  # of the axes, which the name of a level may take


def _level_names(
    levels: Mapping[str, float], low: float, high: float
) -> Iterator[tuple[float, str, float]]:
    """Yield height as a fraction of the range, text, and distance of the text above it in points.

    Levels above the range have one text at height 1, and those below it one at height 0.
    """
    for name, level in levels.items():
        if low < level < high:
            yield (level - low) / (high - low), name, 2
    above = [f"{name} {level:.2f} ↑" for name, level in levels.items() if level >= high]
    below = [f"{name} {level:.2f} ↓" for name, level in levels.items() if level <= low]
    if above:
        yield 1.0, "\n".join(above), -2
    if below:
        yield 0.0, "\n".join(below), 10  # above a note on missing runs


def _clearance(curves: Sequence[np.ndarray], left: float, height: float) -> float:
    """Return the smallest distance of curves from a height, beside a name that begins at `left`.

    Args:
        curves: points of each curve, shape (points, 2), as fractions of the axes.
        left: where the name begins, as a fraction of the axes.
        height: height of the name, as a fraction of the axes.
    """
    right = left + _NAME_WIDTH
    distances = [np.inf]
    for curve in curves:
        x, y = curve[np.isfinite(curve).all(axis=1)].T
        if len(x):
            drawn = np.clip(np.linspace(left, right, 20), x.min(), x.max())
            beside = drawn[(left <= drawn) & (drawn <= right)]
            distances += np.abs(np.interp(beside, x, y) - height).tolist()
    return min(distances)


def zoom(axis: Axes, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
    """Set the range of y to the values after the first fifth of x.

    The high losses at the start would flatten the rest of the curves.

    Args:
        axis: axes whose range is set.
        curves: x and y of each line that determines the range; all values finite.
    """
    begin = max((x[-1] for x, _ in curves), default=0) / 5
    late = [height for x, y in curves for at, height in zip(x, y, strict=True) if at >= begin]
    if late:
        margin = 0.05 * (max(late) - min(late)) or 0.1
        axis.set_ylim(min(late) - margin, max(late) + margin)
