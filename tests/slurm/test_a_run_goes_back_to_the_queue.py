"""A run that is preempted or hits its time limit is saved, requeued and resumed exactly."""

import re
import subprocess

import pandas as pd
import pytest

from tests.slurm.conftest import last_step, metrics, train_here, wait_until

SLOW = {"label": "slow", "class": "tests.slurm.optimizers.Slow", "source": "a test"}
TARGET = "results/slow/tables/table4.md"


def signal_job(job, *signals):
    for name in signals:
        subprocess.run(["scancel", f"--signal={name}", job], check=True)


def wait_for_steps(run):
    begin = last_step(run)
    wait_until(lambda: last_step(run) > begin + 30)


def preempt(run, job, times):
    """Preempt a job as SLURM does, some steps after its latest start."""
    wait_for_steps(run)
    signal_job(job, "TERM", "USR2")
    wait_until(lambda: len(run.history.events("requeued")) == times)
    wait_until(lambda: len(run.history.events("started")) == times + 1)


@pytest.fixture(scope="module")
def preempted(workspace):
    """Return a run that was preempted twice and hit its time limit at least once."""
    workspace.write_cluster(time_minutes=1, save_seconds=5)
    experiment = {"models": ["tiny"], "optimizers": ["slow"], "seeds": [0]}
    workspace.write_profile(
        "slow", {"comparison": experiment}, {"slow": SLOW}, steps=1000, val_every=500
    )
    process = workspace.start("slow", TARGET)
    wait_until(lambda: workspace.jobs()["state"].tolist() == ["RUNNING"])
    (run,) = workspace.runs()
    (job,) = workspace.jobs()["id"]
    preempt(run, job, times=1)
    preempt(run, job, times=2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run


def test_it_goes_on_in_the_same_job(workspace, preempted):
    events = [event["event"] for event in preempted.history.events("started", "requeued")]
    assert events == ["started", "requeued"] * (len(events) // 2) + ["started"]
    assert len(events) >= 2 * 3 + 1  # SLURM ended at least one start at the time limit
    assert workspace.ended_jobs()["state"].tolist() == ["COMPLETED"]
    assert preempted.summary["launch"] == {
        "attempts": len(events) // 2 + 1,
        "job": workspace.jobs()["id"].item(),
    }


def test_nothing_was_computed_twice(preempted):
    (log,) = preempted.slurm.glob("*_0_log.err")
    begins = re.findall(r"\| (\d+)/1000 \[00:00<", log.read_text())
    starts = [int(begin) for begin in dict.fromkeys(begins)]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert len(starts) == len(preempted.history.events("started"))


def test_its_metrics_are_those_of_an_undisturbed_run(workspace, preempted, tmp_path):
    corpus = next((workspace.path / "results" / "corpora").iterdir())
    here = train_here(preempted, tmp_path / "here", corpus, seconds=0.0)
    pd.testing.assert_frame_equal(metrics(preempted), metrics(here), check_exact=True)


def test_a_run_that_does_not_end_in_its_attempts_is_a_timeout_and_goes_on_later(workspace):
    workspace.write_cluster(max_attempts=2)
    experiment = {"models": ["tiny"], "optimizers": ["slow"], "seeds": [1]}
    workspace.write_profile(
        "slow", {"comparison": experiment}, {"slow": SLOW}, steps=400, val_every=200
    )
    process = workspace.start("slow", TARGET)
    wait_until(
        lambda: workspace.runs("*/*/*seed1*") and workspace.runs("*/*/*seed1*")[0].slurm.exists()
    )
    (run,) = workspace.runs("*/*/*seed1*")
    wait_until(lambda: last_step(run))
    (job,) = {event["job"] for event in run.history.events("started")}
    preempt(run, job, times=1)
    wait_for_steps(run)
    signal_job(job, "USR2")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert run.summary["status"] == "timeout"
    assert run.summary["reason"] == f"job {job} has not finished in 2 starts of 5 minutes"
    assert "1 failed; the same command tries again" in output
    steps = run.summary["steps"]
    code, output = workspace.run("slow", TARGET)
    assert code == 0, output
    assert run.summary["status"] == "completed"
    (second,) = run.slurm.glob(f"{run.summary['launch']['job']}_0_log.err")
    assert f"| {steps}/400" in second.read_text()
