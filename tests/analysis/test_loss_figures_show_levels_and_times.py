"""Figures of losses show the levels of n-gram models, true times, and every line distinctly."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis.figures import canvas
from analysis.figures.curves import _styles, loss_curves, loss_over_cost
from analysis.figures.final_losses import loss_over_lr
from analysis.frames import read_plan, read_results
from tests.analysis.conftest import planned, write_plan, write_run


def read(folder, rows):
    return read_results(read_plan(write_plan(folder, rows)), folder)


def test_the_time_of_a_step_is_its_median_over_all_logged_steps(results_folder):
    row = planned("powerstep")
    write_run(results_folder, row, 3.0)
    path = results_folder / "runs" / row["run"] / "metrics.parquet"
    frame = pd.read_parquet(path)
    # Steps with a validation take far longer than the others.
    frame["step_seconds"] = np.where(frame["val_loss"].notna(), 9.0, 0.3)
    frame.to_parquet(path)
    with plt.style.context(canvas.STYLE):
        figure, data = loss_over_cost(read(results_folder, [row]))
    plt.close(figure)
    assert data["minutes"].max() == pytest.approx(100 * 0.3 / 60)


def test_two_variants_at_two_rates_are_four_looks():
    rows = [
        planned("stacey", lr=lr) | {"optimizer": name, "label": name}
        for name in ("stacey", "stacey-dual-in-direction")
        for lr in (1e-3, 3e-3)
    ]
    looks = {
        (str(style["color"]), str(style["linestyle"]))
        for style in _styles(pd.DataFrame(rows)).values()
    }
    assert len(looks) == 4


@pytest.mark.parametrize("draw", [loss_curves, loss_over_lr])
def test_levels_are_lines_inside_and_words_outside_of_the_range(results_folder, draw):
    rows = [
        planned(
            "adamw",
            lr=lr,
            experiment="learning_rate",
            unigram_loss=3.0 + 0.2 * (draw is loss_curves),
            bigram_loss=1.25,
        )
        for lr in (1e-3, 3e-3)
    ]
    for row, final in zip(rows, (2.9, 3.1), strict=True):
        write_run(results_folder, row, final)
    with plt.style.context(canvas.STYLE):
        figure, _ = draw(read(results_folder, rows))
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    assert low > 1.25
    assert high > rows[0]["unigram_loss"]
    levels = [line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1]
    assert rows[0]["unigram_loss"] in levels
    texts = {text.get_text() for text in axis.texts}
    assert {"unigram", "bigram 1.25 ↓"} <= texts
    plt.close(figure)


def test_unknown_levels_are_not_drawn(results_folder):
    row = planned("adamw")
    row.pop("unigram_loss", None)
    row.pop("bigram_loss", None)
    write_run(results_folder, row, 3.0)
    with plt.style.context(canvas.STYLE):
        figure, _ = loss_curves(read(results_folder, [row]))
    assert not [text for text in figure.axes[0].texts if "gram" in text.get_text()]
    plt.close(figure)


@pytest.mark.parametrize(("unigram", "bigram"), [(1.5, 1.4), (9.5, 9.4), (5.1, 9.0), (6.5, 3.01)])
def test_the_names_of_levels_cover_neither_each_other_nor_curves(results_folder, unigram, bigram):
    rows = [
        planned(name, lr=lr, unigram_loss=unigram, bigram_loss=bigram)
        for name in ("adamw", "powerstep")
        for lr in (1e-3, 2e-3, 4e-3)
    ]
    for row in rows:  # validation losses fall from 4.8 to 3 and from 6.8 to 5
        write_run(results_folder, row, 3.0 + 2 * (row["optimizer"] == "powerstep"))
    with plt.style.context(canvas.STYLE):
        figure, _ = loss_curves(read(results_folder, rows))
        figure.draw_without_rendering()
    for axis in figure.axes:
        names = [text for text in axis.texts if "gram" in text.get_text()]
        assert "".join(text.get_text() for text in names).count("gram") == 2
        boxes = [text.get_window_extent() for text in names]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        paths = [line.get_transform().transform_path(line.get_path()) for line in axis.lines]
        curves = [path for path in paths if len(path.vertices) > 2]
        assert not any(path.intersects_bbox(box, filled=False) for path in curves for box in boxes)
    plt.close(figure)


def test_of_runs_that_differ_in_length_the_longest_have_the_levels(results_folder):
    rows = [
        planned("adamw", argument="training.steps", value=str(steps), planned_steps=steps, **levels)
        for steps, levels in (
            (50, {"unigram_loss": 4.5, "bigram_loss": 4.0}),
            (100, {"unigram_loss": 4.4, "bigram_loss": 3.5}),
        )
    ]
    for row in rows:
        write_run(results_folder, row, 3.0)
    with plt.style.context(canvas.STYLE):
        figure, _ = loss_curves(read(results_folder, rows))
    levels = [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_zorder() == 0]
    assert levels == pytest.approx([4.4, 3.5])
    plt.close(figure)
