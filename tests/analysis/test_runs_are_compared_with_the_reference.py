"""Runs agree with the committed reference if they are within prediction intervals of it."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from analysis.estimates.replication import replication, replication_line
from analysis.frames import Results, origin_of, read_results, trained_together
from analysis.tables.cost import cost
from tests.analysis.conftest import planned, write_run

THERE = {0: 3.00, 1: 3.02, 2: 3.01}


@pytest.fixture
def compared(results_folder):
    """Return a function that compares runs, by seed, with reference runs of the same cell."""

    def compare(here, there=THERE, **summary):
        rows = [planned("adamw", seed) for seed in {**here, **there}]
        for row in rows:
            seed = row["seed"]
            if seed in there:
                write_bundle(results_folder / "reference", row, there[seed])
            if seed in here:
                is_inf = math.isinf(here[seed])
                write_run(results_folder, row, here[seed], 30 if is_inf else None, **summary)
        kept = [row for row in rows if row["seed"] in here]
        runs = read_results(kept, results_folder).runs
        return replication(runs, results_folder / "reference")

    return compare


def write_bundle(reference, row, loss, lr=1e-3):
    spec = {"model_name": row["model"], "optimizer": {"name": row["optimizer"]}, "lr": lr}
    bundle = {
        "spec": spec | {"seed": row["seed"]},
        "summary": {"final_val_loss": None if math.isinf(loss) else loss},
    }
    path = reference / "study" / "bundles" / f"{row['run']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bundle), encoding="utf-8")


def test_the_interval_is_that_of_the_difference_of_two_means(compared):
    (cell,) = compared({0: 3.03, 1: 3.05})
    deviation = np.std([*THERE.values()], ddof=1)
    assert cell.here == pytest.approx(3.04)
    assert cell.there == pytest.approx(3.01)
    expected = stats.t.ppf(0.975, 2) * deviation * math.sqrt(1 / 2 + 1 / 3)
    assert cell.half_width == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "agrees"), [(3.05, True), (3.0, True), (3.08, False)])
def test_a_difference_within_the_interval_agrees(compared, loss, agrees):
    cells = compared({0: loss})
    assert [cell.agrees for cell in cells] == [agrees]
    line = replication_line(cells)
    assert line.startswith(f"replication: {int(agrees)} of 1 cells agree")
    assert ("AdamW on gpt2-pico at lr 0.001" in line) != agrees


def test_a_divergence_agrees_with_a_divergence_alone(compared):
    assert [cell.agrees for cell in compared({0: math.inf})] == [False]
    both = compared({0: math.inf}, THERE | {3: math.inf})
    assert [cell.agrees for cell in both] == [True]


def test_restored_runs_do_not_count(compared):
    assert compared({0: 3.0}, restored_from="results/reference/study/bundles") == []
    assert replication_line([]) == ""


def test_cells_of_unknown_scatter_do_not_count(compared):
    assert compared({0: 3.0}, {0: 3.0}) == []


def test_intervals_hold_as_many_new_runs_as_they_say(compared):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(60):
        there = dict(enumerate(3 + 0.01 * rng.standard_normal(6)))
        (cell,) = compared({0: 3 + 0.01 * rng.standard_normal()}, there)
        held.append(cell.agrees)
    assert 0.85 <= np.mean(held) <= 1.0


def test_times_of_restored_runs_count_only_if_all_are_restored(results_folder):
    rows = [planned("adamw", seed) for seed in range(3)]
    for row, origin in zip(rows, ({}, {"restored_from": "there"}, {}), strict=True):
        write_run(results_folder, row, 3.0, **origin)
    runs = read_results(rows, results_folder).runs
    assert trained_together(runs)["seed"].tolist() == [0, 2]
    assert trained_together(runs[runs["seed"] == 1])["seed"].tolist() == [1]
    assert origin_of(runs).tolist() == ["here", "elsewhere", "here"]
    _, shown = cost(Results(results_folder, runs, None))
    assert shown["trained"].tolist() == ["here and elsewhere"]
