"""Figures show the runs' metrics, up to a divergence, and name missing runs."""

import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy import stats

from analysis.catalogue import figures
from analysis.figures import canvas
from analysis.figures.curves import SMOOTHING, loss_curves, loss_over_cost
from analysis.figures.final_losses import loss_over_lr, loss_over_state
from analysis.figures.line_styles import style_of
from analysis.figures.point_labels import Point, label_points
from analysis.figures.studies import transform
from analysis.figures.write import write_figure
from analysis.frames import read_plan, read_results
from analysis.papers.numbers import load_paper
from experiments.plan.reading import load_profile
from tests.analysis.conftest import LABELS, STATE, planned, write_plan, write_run, write_studies

FINALS = {"adamw": (3.0, 3.2, 3.1), "powerstep": (3.1, 3.25, 3.15)}


@pytest.fixture(autouse=True)
def in_style():
    with plt.style.context(canvas.STYLE):
        yield
    plt.close("all")


@pytest.fixture
def results(results_folder):
    """Return a function that writes the runs of a comparison, some missing, and reads them."""

    def make(diverged=(), missing=()):
        rows = [planned(name, seed) for name, finals in FINALS.items() for seed in range(3)]
        for row in rows:
            key = (row["optimizer"], row["seed"])
            if key not in missing:
                final = FINALS[row["optimizer"]][row["seed"]]
                write_run(results_folder, row, final, 37 if key in diverged else None)
        return read_results(read_plan(write_plan(results_folder, rows)), results_folder)

    return make


def parquet(folder, optimizer, seed):
    path = folder / "runs" / planned(optimizer, seed)["run"] / "metrics.parquet"
    return pd.read_parquet(path).set_index("step")


def drawn(axis, color):
    """Return the points of each curve of a colour."""
    lines = [line for line in axis.lines if to_rgb(line.get_color()) == to_rgb(color)]
    return [line.get_xydata() for line in lines if line.get_marker() in (None, "None", "")]


@pytest.mark.parametrize("optimizer", FINALS)
def test_a_curve_is_the_mean_of_the_parquet_files_it_came_from(results, results_folder, optimizer):
    figure, data = loss_curves(results())
    seeds = pd.concat(
        [parquet(results_folder, optimizer, seed)["val_loss"].dropna() for seed in range(3)], axis=1
    ).to_numpy()
    shown = data[(data["panel"] == "validation") & (data["line"] == LABELS[optimizer])]
    np.testing.assert_allclose(shown["loss"], seeds.mean(axis=1))
    half = stats.t.ppf(0.975, 2) * seeds.std(axis=1, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(shown["high"] - shown["loss"], half)
    np.testing.assert_allclose(shown["loss"] - shown["low"], half)
    (curve,) = drawn(figure.axes[1], style_of(optimizer)["color"])
    np.testing.assert_array_equal(curve, shown[["step", "loss"]])


def test_the_training_loss_is_averaged_over_as_many_rows_as_is_said(results, results_folder):
    figure, _ = loss_curves(results())
    seeds = [parquet(results_folder, "adamw", seed)["train_loss"] for seed in range(3)]
    mean = pd.concat(seeds, axis=1).to_numpy().mean(axis=1)
    (curve,) = drawn(figure.axes[0], style_of("adamw")["color"])
    np.testing.assert_allclose(curve[-1, 1], mean[-SMOOTHING:].mean())
    np.testing.assert_allclose(curve[0, 1], mean[0])


def test_a_diverged_run_is_drawn_up_to_its_divergence_and_marked(results):
    figure, data = loss_curves(results(diverged=[("powerstep", 1)]))
    color = style_of("powerstep")["color"]
    curves = drawn(figure.axes[0], color)
    assert sorted(curve[-1, 0] for curve in curves) == [36, 100, 100]  # 37 is not finite
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_color()) for line in crosses] == [(36, color)]
    assert (
        len(drawn(figure.axes[0], style_of("adamw")["color"])) == 1
    )  # the mean of the other seeds
    of_seeds = data[(data["panel"] == "validation") & (data["seed"] != "")]
    assert set(of_seeds["line"]) == {"PowerStep"}


def test_a_missing_run_is_named_and_its_optimizer_has_no_mean(results):
    figure, _ = loss_curves(results(missing=[("powerstep", 2)]))
    assert "missing: PowerStep seed 2" in [text.get_text() for text in figure.axes[0].texts]
    assert len(drawn(figure.axes[1], style_of("powerstep")["color"])) == 2


def test_costs_are_tokens_and_the_time_of_the_median_step(results):
    figure, _ = loss_over_cost(results())
    for axis, last in zip(figure.axes, (100 * 8 * 64, 100 * 0.1 / 60), strict=True):
        (curve,) = drawn(axis, style_of("adamw")["color"])
        assert curve[-1, 0] == pytest.approx(last)
        assert curve[-1, 1] == pytest.approx(np.mean(FINALS["adamw"]))


def test_the_best_rate_is_ringed_and_a_diverged_one_crossed(results_folder):
    finals = {1e-3: 3.0, 3e-3: 2.5, 1e-2: None}
    rows = [planned("powerstep", experiment="learning_rate", lr=lr) for lr in finals]
    for row, final in zip(rows, finals.values(), strict=True):
        write_run(results_folder, row, final or 3.0, None if final else 37)
    plan = read_plan(write_plan(results_folder, rows))
    figure, data = loss_over_lr(read_results(plan, results_folder))
    lines = figure.axes[0].lines
    rings = [line.get_xydata().tolist() for line in lines if line.get_markerfacecolor() == "none"]
    assert rings == [[[3e-3, 2.5]]]
    assert [line.get_xdata()[0] for line in lines if line.get_marker() == "x"] == [1e-2]
    assert data.set_index("lr")["mean"].to_dict() == pytest.approx(
        finals | {1e-2: np.nan}, nan_ok=True
    )


def test_the_trade_off_is_of_measured_bytes(results):
    _, data = loss_over_state(results())
    shared = data[data["protocol"] == "shared lr"].set_index("optimizer")
    for optimizer, finals in FINALS.items():
        assert shared.loc[optimizer, "mean"] == pytest.approx(np.mean(finals))
        assert shared.loc[optimizer, "state_bytes_per_parameter"] == STATE[optimizer]


@pytest.mark.parametrize("without", [["powerstep"], ["adamw", "powerstep"]])
def test_an_optimizer_without_state_has_a_place_in_the_trade_off(results, without):
    found = results()
    found.runs.loc[found.runs["optimizer"].isin(without), "state_bytes"] = 0
    figure, data = loss_over_state(found)
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    assert np.all(data["state_bytes_per_parameter"].between(low, high, inclusive="neither"))
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer())  # in inches, labels included
    assert box.width < 2 * canvas.PAGE_WIDTH


@pytest.fixture
def low_memory(results_folder):
    """Return a function that writes and reads the experiment `low_memory`, and its trade-off."""

    def make(finals, lrs=None):
        rows = [
            planned(name, experiment="low_memory", lr=(lrs or {}).get(name, 1e-3))
            for name in finals
        ]
        for row, final in zip(rows, finals.values(), strict=True):
            write_run(results_folder, row, final or 3.0, None if final else 37)
        plan = read_plan(write_plan(results_folder, rows))
        found = figures(plan)["low_memory_gpt2-pico"]
        return found, read_results(plan, results_folder).of(found.rows)

    return make


def test_the_low_memory_figure_shows_each_optimizer_at_the_rate_it_was_given(low_memory):
    finals = {"adamw": 3.0, "powerstep-int8": 3.1, "lion": 3.2}
    artefact, results = low_memory(finals, lrs={"lion": 3e-4})
    figure, data = loss_over_state(results)
    assert data.set_index("optimizer")["mean"].to_dict() == finals
    sizes = data.set_index("optimizer")["state_bytes_per_parameter"]
    assert sizes.to_dict() == pytest.approx({name: STATE[name] for name in finals}, rel=1e-3)
    faces = {
        tuple(line.get_xydata()[0]): line.get_markerfacecolor() == "white"
        for line in figure.axes[0].lines
    }
    assert faces == {(sizes[name], final): name == "lion" for name, final in finals.items()}
    assert artefact.kind == "loss_over_state"
    assert artefact.caption.endswith("Learning rates other than the shared one: Lion 0.0003.")


def test_one_learning_rate_for_all_needs_no_mention(low_memory):
    artefact, _ = low_memory({"adamw": 3.0, "lion": 3.2})
    assert "other than" not in artefact.caption


def test_an_optimizer_that_diverged_has_a_cross_at_the_top_of_the_trade_off(low_memory):
    _, results = low_memory({"adamw": 3.0, "powerstep": 3.1, "adamw-int8": None})
    figure, _ = loss_over_state(results)
    (axis,) = figure.axes
    crosses = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "x"]
    assert crosses == [[[STATE["adamw-int8"] - 5e-4, axis.get_ylim()[1]]]]  # whole bytes
    assert LABELS["adamw-int8"] in [text.get_text() for text in axis.texts]


def test_the_lines_of_optimizers_with_one_rate_each_are_named_by_them_alone(low_memory):
    _, results = low_memory({"adamw": 3.0, "lion": 3.2}, lrs={"lion": 3e-4})
    figure, data = loss_curves(results)
    assert set(data["line"]) == {"AdamW", "Lion"}
    color = to_rgb(style_of("adamw")["color"])
    (line,) = [each for each in figure.axes[1].lines if to_rgb(each.get_color()) == color]
    assert line.get_linestyle() == "--"  # matplotlib's name for all dashes; the rate's are solid


def test_the_labels_of_the_profiles_low_memory_figure_are_legible():
    sizes = [8, 2.09, 2.2, 1.2, 2.07, 4, 2, 1.03, 0.53, 4, 0.11, 4.08, 4.2]
    losses = [4.51, 4.52, 4.515, 4.55, 4.9, 4.45, 4.452, 4.46, 4.5, 4.6, 4.7, 4.56, 4.66]
    profile = load_profile("low_memory")
    names = profile.experiments["low_memory"].optimizers
    figure, (axis,) = canvas.new(height=3.2)
    figure.set_figwidth(canvas.PAGE_WIDTH)
    axis.set(xscale="log", xlim=(0.05, 14), ylim=(4.4, 4.95))
    label_points(
        axis,
        [
            Point(x, y, profile.optimizers[name].label, "black")
            for x, y, name in zip(sizes, losses, names, strict=True)
        ],
    )
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axis.texts]
    assert len(boxes) == 13
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    points = axis.transData.transform(np.column_stack([sizes, losses]))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(axis.bbox.padded(1).fully_contains(*box.min) for box in boxes)
    assert all(axis.bbox.padded(1).fully_contains(*box.max) for box in boxes)


def test_figure_1_is_the_formula():
    figure, data = transform(None)
    for beta, line in data.groupby("beta"):
        x = line["x"].to_numpy()
        expected = [0.0 if v == 0 else np.copysign(abs(v) ** beta, v) for v in x]
        np.testing.assert_allclose(line["y"], expected)
    assert len(figure.axes[0].lines) == data["beta"].nunique() == 5


def test_every_figure_can_be_drawn_before_any_run_is_done(results_folder):
    write_studies(results_folder)
    rows = [
        planned("adamw"),
        planned("powerstep", experiment="sensitivity", argument="beta", value="0.1"),
        planned("adamw", experiment="learning_rate"),
        planned("adamw", experiment="something_else"),
        planned("lion", experiment="low_memory", lr=3e-4),
    ]
    plan = read_plan(write_plan(results_folder, rows))
    results = read_results(plan, results_folder)
    folder = results_folder / "mine" / "figures"
    for figure in figures(plan).values():
        write_figure(figure, results, folder)
        assert (folder / f"{figure.name}.pdf").read_bytes().startswith(b"%PDF")


def test_each_optimizer_looks_the_same_everywhere_and_like_no_other():
    styles = {name: style_of(name) for name in load_profile("smoke").optimizers}
    seen = {tuple(map(str, one.values())) for one in styles.values()}
    assert len(seen) == len(styles)


def test_the_lines_of_the_papers_figure_2_differ_without_colour():
    styles = [str(style_of(name)["linestyle"]) for name in load_paper()["val_loss"]["qwen3-8b"]]
    assert len(set(styles)) == len(styles) == 5


@pytest.mark.parametrize(
    "heights", [[0.3, 0.3, 0.3], [0.0, 0.0, 0.02, 0.5, 0.51], [0.99, 1.0, 1.0], [0.3], []]
)
def test_labels_keep_their_order_and_distance_inside_the_figure(heights):
    placed = canvas.spread(heights, 0.05)
    assert len(placed) == len(heights)
    assert all(b - a >= 0.05 - 1e-12 for a, b in pairwise(placed))
    assert all(-1e-12 <= height <= 1 + 1e-12 for height in placed)


def test_labels_that_have_room_stay_around_their_heights():
    assert canvas.spread([0.3, 0.3, 0.7], 0.1) == pytest.approx([0.25, 0.35, 0.7])


def test_a_diverged_run_does_not_decide_on_the_range(results, results_folder):
    made = results(diverged=[("powerstep", 1)])
    of_diverged = made.runs.loc[made.runs["status"] == "diverged", "run"].iloc[0]
    made.metrics.loc[made.metrics["run"] == of_diverged, ["train_loss", "val_loss"]] *= 1000
    figure, _ = loss_curves(made)
    for axis in figure.axes:
        assert axis.get_ylim()[1] < 6


def test_the_analysis_starts_without_torch():
    code = "import sys, analysis.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
