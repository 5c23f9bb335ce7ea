"""The time to AdamW's loss is that of AdamW at the same rate, when it has several in a plan."""

import pandas as pd

from analysis.frames import read_plan, read_results
from analysis.tables.cost import steps_to_target
from tests.analysis.conftest import planned, write_plan, write_run

# A run's validation losses fall from 2 nats above its final loss, by 0.2 at every tenth step.
FINALS = {
    ("adamw", 1e-3): 3.0,
    ("adamw", 3e-3): 2.5,
    ("powerstep", 1e-3): 2.55,  # at 3.0 or less from step 77.5 on
    ("powerstep", 3e-3): 2.35,  # at 2.5 or less from step 92.5 on
}


def test_each_rate_has_the_target_of_its_own_adamw(results_folder):
    rows = [planned(name, seed, lr=lr) for name, lr in FINALS for seed in (0, 1)]
    for row in rows:
        # The second seeds are higher by as much as their target, so their steps are the same.
        write_run(results_folder, row, FINALS[row["optimizer"], row["lr"]] + row["seed"])
    found = steps_to_target(
        read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    ).set_index(["optimizer", "lr"])
    assert found["protocol"].to_dict() == {
        key: "shared lr" if key[1] == 1e-3 else "lr 0.003" for key in FINALS
    }
    assert found["steps"].to_dict() == {
        ("adamw", 1e-3): 100,
        ("adamw", 3e-3): 100,
        ("powerstep", 1e-3): 80,
        ("powerstep", 3e-3): 100,
    }
    assert set(found["n"]) == {2}
    assert not found["censored"].any()


def test_a_rate_without_adamw_has_no_target(results_folder):
    rows = [planned("adamw"), planned("powerstep"), planned("powerstep", lr=3e-3)]
    for row in rows:
        write_run(results_folder, row, 3.0)
    found = steps_to_target(
        read_results(read_plan(write_plan(results_folder, rows)), results_folder)
    ).set_index(["optimizer", "lr"])
    assert found["n"].to_dict() == {
        ("adamw", 1e-3): 1,
        ("powerstep", 1e-3): 1,
        ("powerstep", 3e-3): 0,
    }
    assert pd.isna(found.loc[("powerstep", 3e-3), "steps"])
