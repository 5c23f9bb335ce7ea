"""The tasks of a job train one run with DDP or FSDP2, with the losses of one process."""

import numpy as np
import pytest

from tests.slurm.conftest import metrics, train_here, wait_until
from tests.slurm.test_a_run_goes_back_to_the_queue import SLOW, preempt

MODEL = {"family": "gpt2", "layers": 1, "width": 16, "heads": 2, "context": 16, "vocab_size": 300}
BY_MODEL = {
    "copied": {"tasks_per_node": 2},
    "split": {"tasks_per_node": 2, "strategy": "fsdp"},
    "preempted": {"tasks_per_node": 2, "strategy": "fsdp"},
}


@pytest.fixture(scope="module")
def runs(workspace):
    """Return runs of two processes, by model; the one named `preempted` was preempted."""
    workspace.write_cluster(BY_MODEL)
    experiment = {"models": list(BY_MODEL), "optimizers": ["slow"], "seeds": [0]}
    workspace.write_profile(
        "shared",
        {"comparison": experiment},
        {"slow": SLOW},
        models=dict.fromkeys(BY_MODEL, MODEL),
        steps=160,
        val_every=40,
        lr=1e-3,
    )
    process = workspace.start("shared", "results/shared/tables/table4.md")
    wait_until(lambda: workspace.runs("preempted/*/*") and len(workspace.jobs()) == 3)
    (run,) = workspace.runs("preempted/*/*")
    wait_until(lambda: run.history.events("started"))
    preempt(run, run.history.events("started")[0]["job"], times=1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return {run.path.parent.parent.name: run for run in workspace.runs()}


@pytest.mark.parametrize("model", BY_MODEL)
def test_losses_are_those_of_one_process(workspace, runs, model, tmp_path):
    run = runs[model]
    assert run.summary["provenance"]["processes"] == 2
    corpus = next((workspace.path / "results" / "corpora").iterdir())
    here = metrics(train_here(run, tmp_path / "here", corpus, seconds=0.0))
    assert metrics(run)["step"].tolist() == here["step"].tolist()
    for column in ("train_loss", "val_loss"):
        np.testing.assert_allclose(metrics(run)[column], here[column], rtol=0, atol=1e-4)


def test_a_preempted_job_goes_on_with_all_its_processes(workspace, runs):
    events = runs["preempted"].history.events("started", "requeued")
    assert [event["event"] for event in events] == ["started", "requeued", "started"]
    assert len(workspace.ended_jobs()) == 3
