"""The figure of PowerStep's gap to AdamW over model size, in the paper's own tables."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import canvas
from analysis.figures.line_styles import style_of
from analysis.frames import Results
from analysis.papers.trend import paper_gaps, paper_trend


def paper_gap(_: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the gaps of tables 4 and 6 over the number of parameters, and as factors of tokens.

    The line is fitted to table 4. It is dashed where it is extrapolated.
    """
    gaps = paper_gaps()
    fp32, int8 = (gaps[gaps["state"] == state] for state in ("fp32", "int8"))
    grid = np.geomspace(fp32["parameters"].min(), gaps["parameters"].max(), 60)
    line, half_width = paper_trend().at(grid)
    fitted = grid <= fp32["parameters"].max()
    figure, axes = canvas.new(columns=2)
    color = style_of("powerstep")["color"]
    left = axes[0]
    for part, dashes in ((fitted, "-"), (~fitted, (0, (4, 1.5)))):
        left.plot(grid[part], line[part], color=color, linestyle=dashes, linewidth=1)
    left.fill_between(grid, line - half_width, line + half_width, color=color, alpha=0.15, lw=0)
    for axis, column in zip(axes, ("gap", "token_factor"), strict=True):
        for rows, optimizer, label in (
            (fp32, "powerstep", "fp32 state (table 4)"),
            (int8, "powerstep-int8", "int8 state (table 6)"),
        ):
            style = style_of(optimizer)
            axis.plot(
                rows["parameters"],
                rows[column],
                linestyle="none",
                marker=style["marker"],
                color=style["color"],
                markersize=4,
                label=label,
            )
        axis.axhline(0 if column == "gap" else 1, color="0.5", linewidth=0.6)
        axis.set(xscale="log", xlabel="parameters")
    left.set_ylabel("gap to AdamW (nats per token)")
    axes[1].set_ylabel("AdamW's tokens for this loss")
    left.legend(loc="upper left", fontsize=6)
    fit = pd.DataFrame(
        {"parameters": grid, "line": line, "low": line - half_width, "high": line + half_width}
    )
    return figure, pd.concat([gaps, fit], ignore_index=True)
