"""Figures that need no trained run: the transform, optimizer state and convergence."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.line_styles import ordered_styles, style_of
from analysis.frames import Results, read_table

_BETAS = (0.0, 0.1, 0.2, 0.5, 1.0)  # values of β in figure 1
_MEMORY_MODEL = "gpt2-small"


def transform(_: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw Φ_β(x) = sign(x)·|x|^β (arXiv:2605.10335, Algorithm 1) for several β."""
    x = np.linspace(-2, 2, 801)
    figure, (axis,) = canvas.new()
    frames, ends = [], []
    for beta, style in zip(_BETAS, ordered_styles(len(_BETAS)), strict=True):
        # NumPy's 0**0 is 1; the factor sign(0) makes it 0.
        y = np.sign(x) * np.abs(x) ** beta
        axis.plot(x, y, color=style["color"], linestyle=style["linestyle"])
        frames.append(pd.DataFrame({"beta": beta, "x": x, "y": y}))
        ends.append((y[-1], f"β = {beta:g}", style["color"]))
    axis.set(xlabel="x", ylabel=r"$\Phi_\beta(x)$")
    canvas.label_ends(axis, x[-1], ends)
    return figure, pd.concat(frames, ignore_index=True)


def state_memory(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the bytes of optimizer state per parameter, for a model at full size.

    An optimizer whose state could not be counted has no bar, but the text "not counted".
    """
    memory = read_table(results.folder / "memory.csv")
    data = memory[memory["model"] == _MEMORY_MODEL].copy()
    data["bytes_per_parameter"] = data["state_bytes"] / data["parameters"]
    data = data.sort_values("bytes_per_parameter", kind="stable")
    figure, (axis,) = canvas.new(height=0.5 + 0.15 * len(data))
    places = np.arange(len(data))  # positions, since two optimizers may share a label
    bars = axis.barh(
        places,
        data["bytes_per_parameter"].fillna(0),
        color=[style_of(optimizer)["color"] for optimizer in data["optimizer"]],
        height=0.65,
    )
    counts = data["bytes_per_parameter"]
    labels = ["not counted" if np.isnan(count) else f"{count:.2f}" for count in counts]
    axis.bar_label(bars, labels=labels, padding=2, fontsize=6)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_yticks(places, data["label"], fontsize=6, parse_math=False)
    axis.margins(x=0.12, y=0.02)
    axis.set(xlabel="optimizer state (bytes per parameter)", title=_MEMORY_MODEL)
    return figure, data[["model", "optimizer", "label", "state_bytes", "bytes_per_parameter"]]


def convergence(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the smallest mean squared gradient norm up to each step, by kind and level of noise.

    A dotted line is the floor that is predicted for β = 0.1.
    """
    data = read_table(results.folder / "convergence.csv")
    fits = read_table(results.folder / "convergence_fits.csv")
    floors = fits[np.isclose(fits["beta"], 0.1)].set_index(["noise", "sigma"])["predicted_floor"]
    panels = list(data.groupby(["noise", "sigma"], sort=False))
    columns = data["sigma"].nunique()
    figure, axes = canvas.new(columns, rows=-(-len(panels) // columns), height=2.0)
    betas = sorted(data["beta"].unique())
    styles = dict(zip(betas, ordered_styles(len(betas)), strict=True))
    for number, (axis, ((noise, sigma), rows)) in enumerate(zip(axes, panels, strict=False)):
        for beta, line in rows.groupby("beta"):
            style = {key: styles[beta][key] for key in ("color", "linestyle")}
            axis.plot(line["step"], line["min_grad_norm_sq"], label=f"β = {beta:g}", **style)
        first = rows["min_grad_norm_sq"].max()
        steps = np.array([rows["step"].min(), rows["step"].max()], dtype=float)
        axis.plot(steps, first / np.sqrt(steps), color="0.5", linewidth=0.6, label="1/√T")
        if floors.get((noise, sigma), 0) > 0:
            axis.axhline(floors[noise, sigma], color="0.3", linewidth=0.8, linestyle=":")
        axis.set_ylim(first * 1e-6, first * 3)  # without noise, β = 1 reaches 0
        axis.set(xscale="log", yscale="log", title=f"{noise} noise, σ = {sigma:g}")
        if number % columns == 0:
            axis.set_ylabel("smallest E‖∇f‖²")
        if number >= len(panels) - columns:
            axis.set_xlabel("step")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure, data
