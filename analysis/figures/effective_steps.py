"""Figures of effective steps, displacements and rounding, from what runs have logged."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.estimates.effective_steps import (
    at_fractions,
    largest_momentum,
    merged,
    quantiles,
    read_logged,
    survival,
)
from analysis.figures import canvas
from analysis.figures.line_styles import ordered_styles, style_of
from analysis.frames import Results
from experiments.runs.effective_steps import (
    ALL,
    BETA,
    COMPARISONS_FILE,
    EPS,
    GAMMA,
    JOINT_BINS,
    JOINT_HIGH,
    JOINT_LOW,
    ROUNDING_FILE,
)

_PANELS = {
    "embedding": ("embedding", "position", "output"),
    "attention": ("q", "k", "v", "kv", "attention out"),
    "MLP": ("mlp in", "mlp out", "router"),
    "norm": ("norm",),
}
_BANDS = ((0.001, 0.999), (0.05, 0.95), (0.25, 0.75))
_OPTIMIZERS = {"powerstep": "PowerStep", "adamw": "AdamW"}


def effective_steps(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw how the distribution of the effective step moves during training."""
    bound = largest_momentum(results.runs) ** (BETA - 1)
    return _fans(results, "effective step", "D/η", {"powerstep": bound, "adamw": 1 / EPS})


def displacements(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw how the distribution of the displacement moves during training."""
    bound = largest_momentum(results.runs) ** BETA
    return _fans(results, "displacement", "displacement/η", {"powerstep": bound})


def effective_tails(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the share of coordinates whose effective step exceeds a multiple of the median."""
    rows = at_fractions(_first_runs(read_logged(results)))
    figure, axes = canvas.new(columns=2)
    data = []
    for axis, (of, label) in zip(axes, _OPTIMIZERS.items(), strict=True):
        quantity = "momentum" if of == "powerstep" else "adam_denominator"
        exponent = BETA - 1 if of == "powerstep" else -1.0
        chosen = rows[
            (rows["optimizer"] == of) & (rows["layer"] == ALL) & (rows["quantity"] == quantity)
        ]
        styles = ordered_styles(max(1, len(chosen)))
        for row, style in zip(chosen.itertuples(), styles, strict=False):
            x, share = survival(row, exponent)
            look = {key: style[key] for key in ("color", "linestyle")}
            axis.plot(x, share, label=f"{row.at:.0%} of training", **look)
            data.append(
                pd.DataFrame({"optimizer": of, "at": row.at, "D/median": x, "share": share})
            )
        axis.set(xscale="log", yscale="log", xlabel="D / median", title=label)
        axis.set_ylim(1e-6, 1.5)
        if of == "powerstep":
            x = np.array([1.0, 1e5])
            axis.plot(x, 0.5 * x ** (-1 / (1 - BETA)), color="0.5", linewidth=0.6)
        if len(chosen):
            axis.legend(fontsize=6)
    axes[0].set_ylabel("share of coordinates above")
    canvas.name_missing_runs(axes[0], results.runs)
    return figure, _joined(data)


def effective_joint(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw PowerStep's effective step against Adam's on the same gradients."""
    rows = at_fractions(_first_runs(read_logged(results, COMPARISONS_FILE)), [1.0])
    figure, axes = canvas.new(columns=2, height=2.8)
    data = []
    edges = np.linspace(JOINT_LOW, JOINT_HIGH, JOINT_BINS + 1) * np.log10(2)
    for axis, (of, label) in zip(axes, _OPTIMIZERS.items(), strict=True):
        axis.set(title=f"run of {label}", xlabel="log10 of Adam's D/η")
        for row in rows[(rows["optimizer"] == of) & (rows["layer"] == ALL)].itertuples():
            counts = np.array(row.counts).reshape(JOINT_BINS, JOINT_BINS)
            x, y = -edges[::-1], (edges * (BETA - 1))[::-1]
            shown = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)[::-1, ::-1]
            axis.pcolormesh(x, y, shown, cmap="viridis", rasterized=True)
            used = np.argwhere(np.isfinite(shown))
            (low_y, low_x), (high_y, high_x) = used.min(axis=0), used.max(axis=0) + 1
            axis.set(xlim=(x[low_x], x[high_x]), ylim=(y[low_y], y[high_y]))
            line = np.array([x[low_x], x[high_x]])
            axis.plot(line, line + np.log10(1 - GAMMA), color="0.5", linewidth=0.8)
            axis.text(0.04, 0.92, f"ρ = {row.spearman:.2f}", transform=axis.transAxes, fontsize=7)
            position = np.argwhere(counts > 0)
            data.append(
                pd.DataFrame(
                    {
                        "optimizer": of,
                        "log2_momentum": JOINT_LOW + position[:, 0] / 2,
                        "log2_adam_denominator": JOINT_LOW + position[:, 1] / 2,
                        "count": counts[counts > 0],
                    }
                )
            )
    axes[0].set_ylabel("log10 of PowerStep's D/η")
    return figure, _joined(data)


def rounding(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the errors of PowerStep's update that rounding of the momentum causes."""
    rows = _first_runs(read_logged(results, ROUNDING_FILE))
    rows = at_fractions(rows[rows["optimizer"] == "powerstep"], [1.0])
    figure, axes = canvas.new(columns=2, height=2.6)
    formats = [*rows["format"].unique()] if len(rows) else []
    styles = dict(zip(formats, ordered_styles(max(1, len(formats))), strict=False))
    for axis, column, title in zip(
        axes,
        ("u_error", "sign_flips"),
        ("relative error of the update", "flipped signs"),
        strict=True,
    ):
        for name, of_format in rows.groupby("format", sort=False):
            for is_kept, cell in of_format.groupby("accumulated"):
                axis.plot(
                    cell["layer"],
                    cell[column].where(cell[column] > 0),
                    color=styles[name]["color"],
                    marker="o" if is_kept else "x",
                    linestyle="none",
                    markersize=4,
                    label=f"{name}, {'kept' if is_kept else 'once'}",
                )
        axis.set(yscale="log", title=title)
        axis.set_xlim(-0.5, max(1, rows["layer"].nunique()) - 0.5)  # with layers that have no error
        axis.tick_params(axis="x", rotation=60, labelsize=6)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=6)
    return figure, rows


def _fans(
    results: Results, measure: str, label: str, bounds: dict[str, float]
) -> tuple[Figure, pd.DataFrame]:
    rows = _first_runs(read_logged(results))
    figure, axes = canvas.new(columns=len(_PANELS), rows=len(_OPTIMIZERS), height=1.8)
    data = []
    for number, (axis, (of, panel)) in enumerate(
        zip(axes, product(_OPTIMIZERS, _PANELS), strict=True)
    ):
        axis.set(xscale="log", yscale="log")
        column = number % len(_PANELS)
        if column:
            axis.sharey(axes[number - column])
            axis.tick_params(which="both", labelleft=False)
        else:
            axis.set_ylabel(f"{_OPTIMIZERS[of]}: {label}")
        if number < len(_PANELS):
            axis.set_title(panel)
        else:
            axis.set_xlabel("step")
        of_panel = rows[(rows["optimizer"] == of) & rows["layer"].isin(_PANELS[panel])]
        if of_panel.empty:
            continue
        fan = quantiles(merged(of_panel), of, measure=measure)
        _draw_fan(axis, fan, style_of(of)["color"])
        data.append(fan.assign(panel=panel))
        if of in bounds:
            axis.axhline(bounds[of], color="0.5", linewidth=0.6)
    canvas.name_missing_runs(axes[len(_PANELS)], results.runs)
    return figure, _joined(data)


def _draw_fan(axis: Axes, fan: pd.DataFrame, color: object) -> None:
    for low, high in _BANDS:
        axis.fill_between(fan["step"], fan[low], fan[high], color=color, alpha=0.22, linewidth=0)
    axis.plot(fan["step"], fan[0.5], color=color, linewidth=1)
    for end in (0.0, 1.0):
        axis.plot(fan["step"], fan[end], color=color, linewidth=0.6, linestyle=":")


def _first_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first run of each optimizer."""
    if rows.empty:
        return rows.reindex(columns=["run", "optimizer", "layer", "quantity", "step", "format"])
    first = rows.drop_duplicates("optimizer")["run"]
    return rows[rows["run"].isin(first)]


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"optimizer": []})
