"""A run at a learning rate that may follow is a SLURM job only if it is needed."""

import json


def test_only_rates_that_are_needed_become_jobs(workspace):
    grid = {"models": ["tiny"], "optimizers": ["mine"], "seeds": [0], "rates": 3, "extend": 1}
    # Twelve steps at the lowest rates are too short to learn, so the highest is the best.
    optimizers = {
        "mine": {
            "label": "Mine",
            "class": "torch.optim.AdamW",
            "best_lr": {"lr": 2.5e-4, "width": 16},
            "source": "a test",
        }
    }
    workspace.write_profile("grows", {"learning_rate": grid}, optimizers)
    code, output = workspace.run("grows", "results/grows/tables/learning_rate.csv")
    assert code == 0, output
    decisions = {
        path.stem.split("_")[0]: json.loads(path.read_text())["needed"]
        for path in (workspace.path / "results/grows/extensions").rglob("*.json")
    }
    assert decisions == {"lr6.25e-05": False, "lr0.001": True}
    jobs = workspace.ended_jobs()
    assert jobs["state"].tolist() == ["COMPLETED"] * 4
    trained = {run.summary["launch"]["job"] for run in workspace.runs() if run.is_done}
    assert trained == {*jobs["id"]}
