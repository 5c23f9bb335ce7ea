"""Tables, figures and report say what the runs' files say, diverged runs included."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis.figures import loss_figure, write_figures
from analysis.frames import collect, load_metrics, load_runs
from analysis.report import find, write_report
from analysis.statistics import Estimate, estimate, paired_difference
from analysis.tables import (
    state_memory_numbers,
    state_memory_table,
    val_loss_numbers,
    val_loss_table,
    write_tables,
)
from tests.analysis.conftest import FINAL, curve


@pytest.fixture
def collected(results):
    """Return a function that makes a profile's folder and collects its runs."""

    def make(**changes):
        folder = results(**changes)
        collect(folder / "plan.csv", folder.parent / "runs", folder)
        return folder

    return make


def test_the_interval_is_students(collected):
    # 4.302653 is the 97.5 % point of Student's t with two degrees of freedom.
    over_seeds = estimate(pd.Series([3.0, 3.2, 3.1]))
    assert over_seeds.mean == pytest.approx(3.1)
    assert over_seeds.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert str(over_seeds) == "3.100 ± 0.248"
    assert str(estimate(pd.Series([3.0]))) == "3.000"


def test_a_difference_is_taken_seed_by_seed():
    a = pd.Series({0: 3.1, 1: 3.25, 2: np.nan})
    b = pd.Series({1: 3.2, 0: 3.0, 2: 3.3})
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.075)
    assert difference.n == 2
    assert paired_difference(a, pd.Series({2: 1.0})) is None


def test_the_val_loss_table_holds_means_over_seeds(collected):
    table = val_loss_numbers(load_runs(collected())).set_index("optimizer")
    for optimizer in ("adamw", "powerstep"):
        losses = [loss for (name, _), loss in FINAL.items() if name == optimizer]
        assert table.loc[optimizer, "mean"] == pytest.approx(np.mean(losses))
        assert table.loc[optimizer, "n"] == 3


def test_a_mean_over_fewer_seeds_is_never_shown(collected):
    runs = load_runs(collected(diverged=[("powerstep", 1)]))
    assert val_loss_table(runs).loc["PowerStep", "gpt2-pico, ours"] == "diverged (1 of 3)"
    numbers = val_loss_numbers(runs).set_index("optimizer")
    assert np.isnan(numbers.loc["powerstep", "mean"])
    assert numbers.loc["powerstep", "diverged"] == 1


def test_the_papers_value_stands_beside_ours(collected):
    runs = load_runs(collected(model="gpt2-medium"))
    table = val_loss_table(runs)
    assert list(table.columns) == ["gpt2-medium, ours", "gpt2-medium, paper"]
    # Table 4 of arXiv:2605.10335.
    assert table["gpt2-medium, paper"].to_dict() == {"AdamW": "2.711", "PowerStep": "2.717"}
    assert val_loss_numbers(runs)["paper"].tolist() == [2.711, 2.717]


def test_where_the_paper_has_no_value_there_is_a_dash(collected):
    finals = {("adamw", 0): 3.0, ("lion", 0): 3.0}
    table = val_loss_table(load_runs(collected(finals=finals)))
    assert table.loc["AdamW", "gpt2-small, paper"] == "2.950"
    assert table.loc["Lion", "gpt2-small, paper"] == "–"


def test_the_memory_table_divides_by_the_parameters(collected):
    runs = load_runs(collected())
    numbers = state_memory_numbers(runs).set_index("optimizer")
    assert numbers["bytes_per_parameter"].to_dict() == {"adamw": 8.0, "powerstep": 4.0}
    assert state_memory_table(runs).loc["PowerStep", "gpt2-pico, × less than AdamW"] == "2.00"


def test_tables_are_written_for_machines_for_readers_and_for_papers(collected):
    folder = collected()
    write_tables(folder)
    assert list(pd.read_csv(folder / "tables" / "val_loss.csv")["n"]) == [3, 3]
    assert "| AdamW       | 3.100 ± 0.248 (n=3)" in (folder / "tables" / "val_loss.md").read_text()
    latex = (folder / "tables" / "val_loss.tex").read_text()
    assert r"\toprule" in latex
    assert r"AdamW & 3.100 $\pm$ 0.248 (n=3) & 2.950 \\" in latex


def test_a_figure_draws_the_metrics(collected):
    folder = collected()
    figure = loss_figure(load_runs(folder), load_metrics(folder))
    train, validation = figure.axes
    line = next(line for line in validation.get_lines() if line.get_label() == "AdamW")
    step, loss = curve(3.1)  # the mean of AdamW's seeds
    np.testing.assert_allclose(line.get_xdata(), step[9::10])
    np.testing.assert_allclose(line.get_ydata(), loss[9::10] + 0.01)
    line = next(line for line in train.get_lines() if line.get_label() == "AdamW")
    np.testing.assert_allclose(line.get_ydata()[-1], loss[-20:].mean())
    band = validation.collections[0].get_paths()[0].get_extents()
    assert band.y0 == pytest.approx(3.11 - 0.2484138, rel=1e-6)


def test_a_diverged_run_is_drawn_up_to_the_divergence_and_marked(collected):
    folder = collected(diverged=[("powerstep", 1)])
    train = loss_figure(load_runs(folder), load_metrics(folder)).axes[0]
    line = next(line for line in train.get_lines() if line.get_label() == "PowerStep")
    assert line.get_xdata()[-1] == 36
    assert [mark.get_xdata()[0] for mark in train.get_lines() if mark.get_marker() == "x"] == [36]


@pytest.mark.parametrize("diverged_at", [1, 2, 5, 37])
def test_runs_that_all_diverged_leave_a_gap(collected, diverged_at):
    folder = collected(diverged=list(FINAL), diverged_at=diverged_at)
    write_tables(folder)
    write_figures(folder)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert page.count("diverged (3 of 3)") == 2
    assert ">nan<" not in page.lower()


def test_a_difference_over_fewer_seeds_is_never_shown(collected):
    findings = find(load_runs(collected(diverged=[("powerstep", 1)])))
    assert findings[0] == "6 runs: 5 completed, 1 diverged"
    assert (
        findings[1] == "gpt2-pico: PowerStep against AdamW: not compared, 1 of their runs diverged"
    )


def test_an_optimizer_of_which_every_run_diverged_leaves_a_gap(collected):
    folder = collected(diverged=[("powerstep", seed) for seed in range(3)])
    write_tables(folder)
    write_figures(folder)
    write_report(folder)
    assert "diverged (3 of 3)" in (folder / "report.html").read_text()
    assert "no seed completed with both" in (folder / "summary.txt").read_text()


def test_the_findings_name_differences_and_their_signs(collected):
    findings = find(load_runs(collected()))
    assert findings[0] == "6 runs: 6 completed"
    difference = Estimate(0.0666667, 0.0717, 3)
    assert str(difference) in findings[1]
    assert findings[1].startswith("gpt2-pico: PowerStep ends 0.067")
    assert "above AdamW (final validation loss, n=3)" in findings[1]
    assert findings[2] == "optimizer state in bytes per parameter: AdamW 8.00, PowerStep 4.00"


@pytest.mark.parametrize(("as_recorded", "is_told"), [(None, False), (True, False), (False, True)])
def test_another_corpus_than_the_recorded_one_is_told(collected, as_recorded, is_told):
    findings = find(load_runs(collected(as_recorded=as_recorded)))
    assert any("the corpus is not the recorded one" in finding for finding in findings) == is_told


def test_the_report_opens_without_a_network(collected):
    folder = collected()
    write_figures(folder)
    write_report(folder)
    page = (folder / "report.html").read_text()
    links = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"@import|url\(", page)
    for shown in ("3.100 ± 0.248 (n=3)", "c" * 40, "2.13.0", "ab" * 32, "seed"):
        assert shown in page
