"""The figure of the ladder: gap, best learning rate and loss over model size."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.estimates.ladder import BASELINE, COMPARED, Rung, label_of, ladder
from analysis.estimates.trend import Trend, fit_trend
from analysis.figures import canvas
from analysis.figures.line_styles import style_of
from analysis.frames import Results
from analysis.papers.trend import paper_gaps

_FARTHEST = 8e9  # parameters, the largest model of the paper's table 4
_LEVEL = 0.95


def ladder_figure(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw what was measured as points, the fitted line as a line, its extrapolation dashed.

    The intervals and the band have the level 95 %. The gaps of the paper's tables 4 and 6 are grey.
    """
    figure, axes = canvas.new(columns=3, height=2.7)
    runs = results.runs
    ladders = {name: ladder(runs, name) for name in COMPARED}
    data = [_draw_paper(axes[0])]
    for place, (name, rungs) in enumerate(ladders.items()):
        label = label_of(runs, name)
        data.append(_draw_gaps(axes[0], name, label, rungs, 1 + 0.12 * place))
        trend = fit_trend([rung.parameters for rung in rungs], [rung.gap for rung in rungs])
        if trend and name == COMPARED[0]:
            data.append(_draw_trend(axes[0], name, trend))
    for name in (BASELINE, *COMPARED):
        rungs = ladders[COMPARED[0] if name == BASELINE else name]
        data += [
            _draw_rates(axes[1], name, label_of(runs, name), rungs),
            _draw_losses(axes[2], name, rungs),
        ]
    _dress(figure, axes, runs)
    return figure, pd.concat(data, ignore_index=True)


def _draw_paper(axis: Axes) -> pd.DataFrame:
    """Draw the gaps of the paper's tables."""
    gaps = paper_gaps()
    for state, filled, table in (("fp32", "0.6", 4), ("int8", "none", 6)):
        rows = gaps[gaps["state"] == state]
        axis.plot(
            rows["parameters"],
            rows["gap"],
            linestyle="none",
            marker="s" if state == "fp32" else "D",
            markersize=3,
            color="0.6",
            markerfacecolor=filled,
            label=f"paper, table {table}",
        )
    return pd.DataFrame(
        {
            "what": "gap, published",
            "optimizer": gaps["state"].map({"fp32": COMPARED[0], "int8": COMPARED[1]}),
            "model": gaps["model"],
            "parameters": gaps["parameters"],
            "value": gaps["gap"],
        }
    )


def _draw_gaps(
    axis: Axes, name: str, label: str, rungs: Sequence[Rung], shift: float
) -> pd.DataFrame:
    """Draw measured gaps with their intervals; `shift` moves points that would cover each other."""
    rows = [
        {
            "what": "gap, measured",
            "optimizer": name,
            "model": rung.model,
            "parameters": rung.parameters,
            "value": rung.gap.value,
            "low": rung.gap.interval(_LEVEL)[0],
            "high": rung.gap.interval(_LEVEL)[1],
        }
        for rung in rungs
    ]
    style = style_of(name)
    for row in rows:
        x = row["parameters"] * shift
        axis.plot([x, x], [row["low"], row["high"]], color=style["color"], linewidth=0.8)
    axis.plot(
        [row["parameters"] * shift for row in rows],
        [row["value"] for row in rows],
        linestyle="none",
        marker=style["marker"],
        markersize=3.5,
        color=style["color"],
        label=f"{label}, measured",
    )
    return pd.DataFrame(rows)


def _draw_trend(axis: Axes, name: str, trend: Trend) -> pd.DataFrame:
    """Draw the fitted line, solid over the measured sizes and dashed beyond them."""
    color = style_of(name)["color"]
    first, last = trend.parameters.min(), trend.parameters.max()
    parts = (
        ("gap, fitted", np.geomspace(first, last, 30), "-", "fitted"),
        ("gap, extrapolated", np.geomspace(last, _FARTHEST, 60), (0, (4, 1.5)), "extrapolated"),
    )
    data = []
    for what, grid, dashes, label in parts:
        line = [trend.at(parameters) for parameters in grid]
        low, high = np.array([each.interval(_LEVEL) for each in line]).T
        value = [each.value for each in line]
        axis.plot(grid, value, color=color, linestyle=dashes, linewidth=1, label=label)
        axis.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)
        columns = {"parameters": grid, "value": value, "low": low, "high": high}
        data.append(pd.DataFrame({"what": what, "optimizer": name, **columns}))
    return pd.concat(data, ignore_index=True)


def _draw_rates(axis: Axes, name: str, label: str, rungs: Sequence[Rung]) -> pd.DataFrame:
    """Draw best learning rates, hollow where the best rate is not inside the sweep."""
    style = style_of(name)
    rows = []
    for rung in rungs:
        best = rung.log2_lrs[name]
        low, high = (2**end for end in best.interval(_LEVEL))
        is_inside = rung.inside[name]
        axis.plot(
            [rung.parameters],
            [2**best.value],
            marker=style["marker"],
            markersize=3.5,
            color=style["color"],
            markerfacecolor=style["color"] if is_inside else "none",
        )
        axis.plot([rung.parameters] * 2, [low, high], color=style["color"], linewidth=0.8)
        rows.append(
            {
                "what": "best lr" if is_inside else "best lr, not inside the sweep",
                "optimizer": name,
                "model": rung.model,
                "parameters": rung.parameters,
                "value": 2**best.value,
                "low": low,
                "high": high,
            }
        )
    axis.plot(
        [row["parameters"] for row in rows],
        [row["value"] for row in rows],
        color=style["color"],
        linestyle=style["linestyle"],
        linewidth=0.8,
        label=label,
    )
    return pd.DataFrame(rows)


def _draw_losses(axis: Axes, name: str, rungs: Sequence[Rung]) -> pd.DataFrame:
    """Draw the fitted lowest losses."""
    style = style_of(name)
    x, y = [rung.parameters for rung in rungs], [rung.losses[name].value for rung in rungs]
    axis.plot(
        x, y, color=style["color"], linestyle=style["linestyle"], marker=style["marker"],
        markersize=3.5, linewidth=0.8,
    )  # fmt: skip
    models = [rung.model for rung in rungs]
    columns = {"what": "lowest loss", "optimizer": name, "model": models}
    return pd.DataFrame({**columns, "parameters": x, "value": y})


def _dress(figure: Figure, axes: Sequence[Axes], runs: pd.DataFrame) -> None:
    """Label the axes, and put the legends where no point is."""
    for axis in axes:
        axis.set(xscale="log", xlabel="parameters")
    axes[0].axhline(0, color="0.5", linewidth=0.6, zorder=0)
    axes[0].set_ylabel("gap to AdamW (nats per token)")
    axes[1].set(yscale="log", ylabel="best learning rate")
    axes[2].set_ylabel("lowest loss (nats per token)")
    canvas.draw_levels(axes[2], runs)
    axes[1].legend(fontsize=6)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    canvas.name_missing_runs(axes[0], runs)
