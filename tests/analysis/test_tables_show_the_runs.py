"""Tables show the runs' results, with marked gaps where runs are missing or diverged."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from analysis.catalogue import tables
from analysis.estimates.losses import best_lr
from analysis.figures import canvas
from analysis.figures.final_losses import loss_over_state
from analysis.frames import read_plan, read_results
from analysis.tables.cost import time_to_target
from analysis.tables.final_losses import (
    loss_at_own_lr,
    loss_by_lr,
    loss_by_optimizer,
    loss_by_value,
)
from analysis.tables.write import make_table, write_table
from tests.analysis.conftest import planned, write_plan, write_run

FINALS = {
    ("adamw", 0): 3.0,
    ("adamw", 1): 3.2,
    ("adamw", 2): 3.1,
    ("powerstep", 0): 3.1,
    ("powerstep", 1): 3.25,
    ("powerstep", 2): 3.15,
}


@pytest.fixture
def comparison(results_folder):
    """Return a function that writes the runs of a comparison, some missing, and reads them."""

    def make(diverged=(), missing=(), **row):
        rows = [planned(optimizer, seed, **row) for optimizer, seed in FINALS]
        for written, (key, final) in zip(rows, FINALS.items(), strict=True):
            if key not in missing:
                write_run(results_folder, written, final, 37 if key in diverged else None)
        return read_results(read_plan(write_plan(results_folder, rows)), results_folder)

    return make


@pytest.fixture
def sweep(results_folder):
    """Return a function that writes a sweep of final losses by optimizer and rate, and reads it."""

    def make(finals, experiment="learning_rate"):
        rows = []
        for (optimizer, lr), per_seed in finals.items():
            for seed, final in enumerate(per_seed):
                row = planned(optimizer, seed, experiment=experiment, lr=lr)
                rows.append(row)
                if final is not None:
                    at = 37 if final == float("inf") else None
                    write_run(results_folder, row, 3.0 if at else final, at)
        return read_results(read_plan(write_plan(results_folder, rows)), results_folder)

    return make


def test_means_are_over_seeds(comparison):
    numbers, shown = loss_by_optimizer(comparison())
    numbers = numbers.set_index("optimizer")
    for optimizer in ("adamw", "powerstep"):
        values = [loss for (name, _), loss in FINALS.items() if name == optimizer]
        assert numbers.loc[optimizer, "mean"] == pytest.approx(np.mean(values))
        assert numbers.loc[optimizer, "n"] == 3
    assert shown.loc["AdamW", "gpt2-pico, lr 0.001"] == "3.100 ± 0.248 (n=3)"


def test_a_mean_over_fewer_seeds_is_never_shown(comparison):
    numbers, shown = loss_by_optimizer(
        comparison(diverged=[("powerstep", 1)], missing=[("adamw", 2)])
    )
    assert numbers["mean"].isna().all()
    column = shown["gpt2-pico, lr 0.001"]
    assert column["PowerStep"] == "1 diverged of 3"
    assert column["AdamW"] == "1 missing of 3"


def test_the_papers_value_stands_beside_ours(comparison):
    numbers, shown = loss_by_optimizer(comparison(model="gpt2-medium"))
    # Table 4 of arXiv:2605.10335.
    assert shown["gpt2-medium, paper"].to_dict() == {"AdamW": "2.711", "PowerStep": "2.717"}
    assert numbers["paper"].tolist() == [2.711, 2.717]


def test_where_the_paper_has_no_value_there_is_none(results_folder):
    rows = [planned("adamw"), planned("stacey")]
    results = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    _, shown = loss_by_optimizer(results)
    assert shown.loc["AdamW", "gpt2-small, paper"] == "2.950"
    assert pd.isna(shown.loc["Stacey(p,2)", "gpt2-small, paper"])


def test_the_best_rate_has_the_lowest_mean_loss_and_its_edge_is_flagged(sweep):
    results = sweep(
        {
            ("adamw", 3e-4): [3.3, 3.5],
            ("adamw", 1e-3): [3.0, 3.1],
            ("adamw", 3e-3): [2.9, 3.3],  # the lowest single run, not the lowest mean
            ("powerstep", 3e-4): [3.4, 3.4],
            ("powerstep", 1e-3): [3.2, 3.1],
            ("powerstep", 3e-3): [3.0, 3.1],
        }
    )
    best = best_lr(results.runs).set_index("optimizer")
    assert best["lr"].to_dict() == {"adamw": 1e-3, "powerstep": 3e-3}
    assert best["edge"].to_dict() == {"adamw": False, "powerstep": True}
    assert set(best["tried"]) == {3}
    _, shown = loss_by_lr(results)
    assert shown["best lr"].to_dict() == {"AdamW": "0.001", "PowerStep": "0.003, edge"}


def test_a_rate_at_which_a_seed_diverged_or_is_missing_is_no_best(sweep):
    results = sweep(
        {
            ("adamw", 1e-3): [3.0, 3.1],
            ("adamw", 3e-3): [2.0, float("inf")],
            ("powerstep", 1e-3): [3.0, 3.1],
            ("powerstep", 3e-3): [2.0, None],
        }
    )
    assert set(best_lr(results.runs)["lr"]) == {1e-3}


def test_both_protocols_stand_side_by_side(results_folder):
    rows = [planned("adamw"), planned("powerstep")]
    rows += [
        planned(optimizer, experiment="learning_rate", lr=lr)
        for optimizer in ("adamw", "powerstep")
        for lr in (1e-3, 3e-3)
    ]
    for row in rows[:2] + rows[3::2]:
        write_run(results_folder, row, 3.0 if row["lr"] == 1e-3 else 2.5)
    plan = read_plan(write_plan(results_folder, rows))
    _, shown = loss_by_optimizer(read_results(plan, results_folder).of(tables(plan)["table4"].rows))
    assert shown.loc["AdamW", "gpt2-pico, lr 0.001"] == "3.000 (n=1)"
    assert shown.loc["AdamW", "gpt2-pico, own lr"] == "2.500 (n=1) [0.003, edge]"


def test_the_best_of_a_sweep_stands_beside_the_minimum_of_its_curve(results_folder):
    rates = np.array([1e-3, 2e-3, 4e-3])
    noise = np.array([[0.0, 0.01, -0.01], [0.02, -0.01, -0.01]])  # of each seed and rate
    losses = 3.0 + 0.1 * np.log2(rates / 1.5e-3) ** 2 + noise
    rows = [planned("adamw"), planned("powerstep")]
    rows += [
        planned("adamw", seed, experiment="learning_rate", lr=lr) for seed in (0, 1) for lr in rates
    ]
    for row, final in zip(rows, [3.0, 3.0, *losses.ravel()], strict=True):
        write_run(results_folder, row, final)
    results = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    _, shown = loss_by_optimizer(results)
    # A parabola through three means. The error of its minimum, by propagation of the means' errors,
    # where each residual from the means of rates and seeds has one of two degrees of freedom.
    x = np.log2(rates)
    lowest = []
    for moved in (np.zeros(3), *(1e-6 * np.eye(3))):
        a, b, c = np.polyfit(x - x[1], losses.mean(axis=0) + moved, 2)
        lowest.append((c - b**2 / (4 * a), 2 ** (x[1] - b / (2 * a))))
    at, least = lowest[0][1], lowest[0][0]
    gradient = (np.array([one for one, _ in lowest[1:]]) - least) / 1e-6
    residuals = losses - losses.mean(axis=0) - losses.mean(axis=1, keepdims=True) + losses.mean()
    error = np.sqrt((residuals**2).sum() / 2 * (gradient**2).sum() / 2)
    best = losses.mean(axis=0).argmin()
    cell = shown.loc["AdamW", "gpt2-pico, own lr"]
    fit = f"fit {least:.3f} ± {stats.t.ppf(0.975, 2) * error:.3f} at {at:.2g}]"
    assert cell.startswith(f"{losses.mean(axis=0)[best]:.3f} ± ")
    assert cell.endswith(f"[{rates[best]:g}{', edge' if best in (0, 2) else ''}; {fit}")
    assert pd.isna(shown.loc["PowerStep", "gpt2-pico, own lr"])


def test_only_the_shared_rate_is_called_shared(results_folder):
    rows = [
        planned(optimizer, seed, experiment=experiment, lr=lr)
        for experiment, rates in (("stacey", (1e-3, 3e-3)), ("large_scale", (3e-3, 1e-3)))
        for optimizer in ("adamw", "powerstep", "powerstep-int8")
        for lr in rates
        for seed in (0, 1)
    ]
    for row in rows:
        write_run(results_folder, row, 3.0 if row["lr"] == 1e-3 else 2.5)
    results = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    named = {("shared lr", 1e-3), ("lr 0.003", 3e-3)}
    numbers, _ = loss_by_optimizer(results)
    assert set(zip(numbers["protocol"], numbers["lr"], strict=True)) == named
    numbers, _ = time_to_target(results)
    assert set(zip(numbers["protocol"], numbers["lr"], strict=True)) == named
    with plt.style.context(canvas.STYLE):
        figure, data = loss_over_state(results)
    plt.close(figure)
    assert set(zip(data["protocol"], data["mean"], strict=True)) == {("shared lr", 3.0)}


def test_a_varied_argument_has_a_row_for_each_value(results_folder):
    rows = [
        planned("powerstep", experiment="sensitivity", argument="beta", value=value)
        for value in ("0.0", "0.1")
    ]
    for row, final in zip(rows, (3.5, 3.25), strict=True):
        write_run(results_folder, row, final)
    results = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    _, shown = loss_by_value(results)
    assert shown["gpt2-pico"].to_dict() == {
        "beta = 0.0": "3.500 (n=1)",
        "beta = 0.1": "3.250 (n=1)",
    }


def test_the_time_to_adamws_loss_is_read_off_the_validations(results_folder):
    rows = [planned("adamw"), planned("powerstep"), planned("powerstep-int8")]
    for row, final in zip(rows, (3.0, 2.5, 3.1), strict=True):
        write_run(results_folder, row, final)
    results = read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    numbers, shown = time_to_target(results)
    numbers = numbers.set_index("optimizer")
    # PowerStep's loss is 2.5 + 2 (1 - step / 100): 3.0 or less from step 75 on, seen at step 80.
    assert numbers.loc["powerstep", "steps"] == 80
    assert numbers.loc["powerstep", "tokens"] == 80 * 8 * 64
    assert numbers.loc["adamw", "steps"] == 100
    assert numbers.loc["powerstep-int8", "censored"] == 1
    assert np.isnan(numbers.loc["powerstep-int8", "steps"])
    assert shown["gpt2-pico, shared lr: steps"].tolist() == [
        "100 (n=1)",
        "80 (n=1)",
        "> 100 in 1 of 1",
    ]


def test_the_low_memory_table_has_state_time_and_loss_sorted_by_state(results_folder):
    finals = {"adamw": 3.0, "powerstep-int8": 3.125, "adamw-int8": None, "lion": 3.25}
    rows = [
        planned(name, seed, experiment="low_memory", lr=3e-4 if name == "lion" else 1e-3)
        for name in finals
        for seed in (0, 1)
    ]
    for row in rows:
        final, seed = finals[row["optimizer"]], row["seed"]
        at = None if final or seed else 37  # the second seed of naive AdamW int8 completes
        costs = {"optimizer_seconds": (1 + seed) * 1e-3, "tokens_per_second": 1000.0 * (1 + seed)}
        write_run(results_folder, row, final or 3.0, at, **costs)
    plan = read_plan(write_plan(results_folder, rows))
    table = tables(plan)["low_memory"]
    numbers, shown = make_table(table, read_results(plan, results_folder).of(table.rows))
    assert list(shown.index) == ["PowerStep int8", "AdamW int8, naive", "Lion", "AdamW"]
    assert shown["state (bytes/param)"].tolist() == ["1.031", "2.062", "4.000", "8.000"]
    assert shown["lr"].tolist() == ["0.001", "0.001", "0.0003", "0.001"]
    assert shown["final loss"].tolist() == [
        "3.125 ± 0.000 (n=2)",
        "1 diverged of 2",
        "3.250 ± 0.000 (n=2)",
        "3.000 ± 0.000 (n=2)",
    ]
    assert set(shown["optimizer step (ms)"]) == {"1.50"}
    assert set(shown["tokens/s"]) == {"1,500"}
    assert set(shown["peak memory (MiB)"]) == {"512"}
    assert numbers.set_index("optimizer")["optimizer_seconds"].to_dict() == pytest.approx(
        dict.fromkeys(finals, 1.5e-3)
    )
    assert table.caption.endswith("Learning rates other than the shared one: Lion 0.0003.")
    assert not any(name.startswith("loss_low_memory") for name in tables(plan))


def test_tables_are_written_for_machines_for_readers_and_for_papers(comparison, results_folder):
    results = comparison()
    plan = read_plan(results_folder / "mine" / "plans" / "plan.csv")
    folder = results_folder / "mine" / "tables"
    write_table(tables(plan)["table4"], results, folder)
    assert list(pd.read_csv(folder / "table4.csv")["n"]) == [3, 3]
    assert "| AdamW       | 3.100 ± 0.248 (n=3)" in (folder / "table4.md").read_text()
    latex = (folder / "table4.tex").read_text()
    assert r"\toprule" in latex
    assert r"AdamW & 3.100 $\pm$ 0.248 (n=3) & 0.020 & 2.950 \\" in latex


def test_every_table_can_be_written_before_any_run_is_done(results_folder):
    rows = [
        planned("adamw"),
        planned("powerstep", experiment="sensitivity", argument="beta", value="0.1"),
        planned("adamw", experiment="learning_rate"),
        planned("lion", experiment="low_memory", lr=3e-4),
    ]
    plan = read_plan(write_plan(results_folder, rows))
    results = read_results(plan, results_folder)
    for table in tables(plan).values():
        if not table.needs:
            write_table(table, results, results_folder / "mine" / "tables")
            text = (results_folder / "mine" / "tables" / f"{table.name}.md").read_text()
            assert "missing" in text or "–" in text or not table.trained, table.name
            assert "nan" not in text.lower(), table.name


def test_a_sweep_of_any_experiment_has_a_table_of_its_best_rates(sweep):
    finals = {("adamw", lr): (loss, loss + 0.1) for lr, loss in ((1e-3, 3.2), (2e-3, 3.0))}
    results = sweep(finals | {("adamw", 4e-3): (3.1, 3.2)}, "tuned")
    assert "own_lr_tuned" in tables(results.runs.to_dict("records"))
    numbers, shown = loss_at_own_lr(results)
    assert numbers["lr"].tolist() == [2e-3]
    assert shown.loc["AdamW", "best lr"] == "0.002"
    assert shown.loc["AdamW", "loss at the best lr"].startswith("3.050 ± ")
    # The quadratic through 3.25, 3.05 and 3.15 at -1, 0 and 1 octaves.
    level, slope, curvature = 3.05, (3.15 - 3.25) / 2, (3.15 + 3.25) / 2 - 3.05
    assert numbers["fitted_loss"].item() == pytest.approx(level - slope**2 / (4 * curvature))
    two = sweep(finals, "pair")
    assert "own_lr_pair" not in tables(two.runs.to_dict("records"))
