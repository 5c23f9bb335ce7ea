"""The figures, each as PDF for papers and PNG for screens."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
import seaborn as sns

from analysis.frames import load_metrics, load_runs
from analysis.statistics import estimate
from analysis.tables import largest_model, state_memory_numbers
from experiments.files import atomic

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN_WIDTH, PAGE_WIDTH = 3.3, 6.8  # inches
SMOOTHING = 20  # rows over which the loss of single batches is averaged

# One look for each optimizer in every figure: colours that differ to the colour-blind (Okabe and
# Ito), and line styles that differ in grey.
_LOOKS = {
    "adamw": ("#000000", "-"),
    "adam": ("#7f7f7f", (0, (5, 2))),
    "powerstep": ("#d55e00", "-"),
    "powerstep-int8": ("#e69f00", (0, (4, 1.5))),
    "adafactor": ("#0072b2", (0, (1, 1))),
    "lion": ("#009e73", (0, (6, 1.5, 1, 1.5))),
    "adam-mini": ("#cc79a7", (0, (3, 1, 1, 1, 1, 1))),
    "powerstep-bf16": ("#e69f00", (0, (1, 1))),
    "powerstep-int4": ("#a63603", (0, (2, 1))),
    "adamw-int8": ("#7f7f7f", "-"),
    "adams": ("#56b4e9", "-"),
    "adams-bias-corrected": ("#56b4e9", (0, (2, 1.5))),
    "signsgd": ("#882255", "-"),
    "pbsgdm": ("#117733", "-"),
    "pbsgdm-decay-in-momentum": ("#117733", (0, (2, 1.5))),
    "stacey": ("#332288", "-"),
    "stacey-dual-in-direction": ("#332288", (0, (2, 1.5))),
}
_OTHER_COLOURS = sns.color_palette("husl", 8).as_hex()


def look(optimizer: str) -> dict[str, object]:
    """Return the colour and line style of an optimizer; one of the user's own gets a stable one."""
    other = _OTHER_COLOURS[sum(optimizer.encode()) % len(_OTHER_COLOURS)]
    color, linestyle = _LOOKS.get(optimizer, (other, "-"))
    return {"color": color, "linestyle": linestyle}


def write_figures(folder: Path) -> None:
    """Draw every figure of a profile into its folder `figures/`."""
    plt.style.use(Path(__file__).parent / "style.mplstyle")
    runs, metrics = load_runs(folder), load_metrics(folder)
    for model, of_model in runs.groupby("model", sort=False):
        _save(loss_figure(of_model, metrics), folder / "figures" / f"loss_{model}")
    _save(state_memory_figure(runs), folder / "figures" / "state_memory")


def loss_figure(runs: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Draw training and validation loss over steps, the mean over seeds with its 95 % interval.

    Args:
        runs: of one model.
        metrics: of at least these runs.
    """
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6))
    for (optimizer, label), group in runs.groupby(["optimizer", "label"], sort=False):
        of_group = metrics[metrics["run"].isin(group["run"])].merge(group[["run", "seed"]])
        train, validation = _by_seed(of_group, "train_loss"), _by_seed(of_group, "val_loss")
        _draw(axes[0], train, label, look(optimizer), window=SMOOTHING)
        _draw(axes[1], validation.dropna(how="all"), label, look(optimizer), window=1)
    axes[0].set(title=f"{runs['model'].iloc[0]}: training", ylabel="loss (nats per token)")
    axes[1].set(title=f"{runs['model'].iloc[0]}: validation")
    for axis in axes:
        axis.set_xlabel("step")
        _zoom_on_late_losses(axis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def state_memory_figure(runs: pd.DataFrame) -> Figure:
    """Draw the optimizer-state bytes per parameter of each optimizer, for the largest model."""
    numbers = largest_model(state_memory_numbers(runs))
    figure, axis = plt.subplots(figsize=(COLUMN_WIDTH, 0.35 + 0.26 * len(numbers)))
    bars = axis.barh(
        numbers["label"],
        numbers["bytes_per_parameter"],
        color=[look(optimizer)["color"] for optimizer in numbers["optimizer"]],
        height=0.65,
    )
    axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.12)
    axis.set(xlabel="optimizer state (bytes per parameter)", title=numbers["model"].iloc[0])
    return figure


def _by_seed(metrics: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column with steps down and seeds across."""
    return metrics.pivot(index="step", columns="seed", values=column)


def _draw(
    axis: Axes, losses: pd.DataFrame, label: str, style: dict[str, object], window: int
) -> None:
    """Draw the mean and interval over seeds up to the first divergence, and mark that."""
    finite = losses.where(losses.abs() < float("inf"))
    complete = finite.rolling(window, min_periods=1).mean().where(finite.notna()).dropna()
    over_seeds = [estimate(row) for _, row in complete.iterrows()]
    mean = [value.mean for value in over_seeds]
    axis.plot(complete.index, mean, label=label, **style)
    if losses.shape[1] > 1:
        low = [value.mean - value.half_width for value in over_seeds]
        high = [value.mean + value.half_width for value in over_seeds]
        axis.fill_between(complete.index, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if len(complete) < len(finite) and mean:
        axis.plot(complete.index[-1], mean[-1], "x", color=style["color"], clip_on=False)


def _zoom_on_late_losses(axis: Axes) -> None:
    """Leave out heights under which the rest would be one line.

    Those are the first tenth of the steps, and losses that end above where they began.
    """
    lines = [line.get_xydata() for line in axis.get_lines() if len(line.get_xydata()) > 1]
    if not lines:  # every run diverged before its second point
        return
    lines = [line for line in lines if line[-1, 1] <= line[0, 1]] or lines
    last = max(line[-1, 0] for line in lines)
    late = [y for line in lines for x, y in line if x >= last / 10]
    margin = 0.05 * (max(late) - min(late))
    axis.set_ylim(min(late) - margin, max(late) + margin)


def _save(figure: Figure, target: Path) -> None:
    for suffix, metadata in {".pdf": {"CreationDate": None}, ".png": None}.items():
        with atomic(target.with_suffix(suffix)) as path:
            figure.savefig(path, metadata=metadata)
    plt.close(figure)
