"""If a launcher, a job or the controller is killed, no work is lost and none is done twice."""

import itertools
import os
import signal
import subprocess
from dataclasses import dataclass

import pandas as pd
import psutil
import pytest

from experiments.runs.folder import RunFolder
from tests.slurm.conftest import ROOT, Workspace, last_step, metrics, train_here, wait_until

SEEDS = itertools.count()
CLUSTER = str(ROOT / "tests" / "slurm" / "cluster.sh")
TARGET = "results/slow/tables/table4.md"


@dataclass(frozen=True)
class Slow:
    """A run that trains for twelve seconds."""

    workspace: Workspace
    seed: int

    def start(self, **how) -> subprocess.Popen:
        """Start Snakemake, which submits the run."""
        return self.workspace.start("slow", TARGET, **how)

    @property
    def run(self) -> RunFolder | None:
        found = self.workspace.runs(f"tiny/slow/*_seed{self.seed}_*")
        return found[0] if found else None

    def wait_until_it_trains(self) -> None:
        wait_until(lambda: self.run and last_step(self.run))

    def jobs(self) -> pd.DataFrame:
        """Wait until the run's jobs have ended; return them from SLURM's accounting."""
        jobs = self.workspace.ended_jobs()
        return jobs[jobs["id"].isin(self.submitted)]

    @property
    def submitted(self) -> list[str]:
        """The ids of the run's jobs."""
        return [event["job"] for event in self.run.history.events("submitted")]


@pytest.fixture
def slow(workspace):
    """Return a run that no other test uses."""
    made = Slow(workspace, next(SEEDS))
    optimizer = {"label": "slow", "class": "tests.slurm.optimizers.Slow", "source": "a test"}
    experiment = {"models": ["tiny"], "optimizers": ["slow"], "seeds": [made.seed]}
    workspace.write_profile(
        "slow", {"comparison": experiment}, {"slow": optimizer}, steps=240, val_every=80
    )
    return made


@pytest.fixture(scope="module")
def undisturbed(workspace, tmp_path_factory):
    """Return a function that trains a run without interruption and returns its metrics."""

    def train(run):
        corpus = next((workspace.path / "results" / "corpora").iterdir())
        folder = tmp_path_factory.mktemp("undisturbed")
        return metrics(train_here(run, folder, corpus, seconds=0.0))

    return train


def launcher_of(process: subprocess.Popen) -> psutil.Process:
    """Return the launcher that a Snakemake process has started."""
    (found,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "launch" in child.cmdline()
    ]
    return found


def test_a_launcher_that_was_killed_finds_its_job_again(slow, undisturbed):
    first = slow.start()
    slow.wait_until_it_trains()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not slow.run.training.has_result
    code, output = slow.workspace.run("slow", TARGET)
    assert code == 0, output
    assert slow.jobs()["state"].tolist() == ["COMPLETED"]
    assert slow.run.summary["launch"]["attempts"] == 1
    pd.testing.assert_frame_equal(metrics(slow.run), undisturbed(slow.run), check_exact=True)


def test_a_result_that_came_while_nobody_waited_is_taken(slow):
    first = slow.start()
    slow.wait_until_it_trains()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: slow.run.training.has_result)
    code, output = slow.workspace.run("slow", TARGET)
    assert code == 0, output
    assert slow.run.summary["status"] == "completed"
    assert len(slow.jobs()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_stopped_cancels_its_job_and_goes_on_later(slow, number, undisturbed):
    first = slow.start()
    slow.wait_until_it_trains()
    if number == signal.SIGINT:
        os.killpg(first.pid, number)  # as Ctrl-C does
    else:
        launcher_of(first).send_signal(number)
    assert first.wait() != 0
    assert slow.jobs()["state"].str.startswith("CANCELLED").all()
    assert slow.run.history.events("cancelled")
    assert not slow.run.summary
    if number == signal.SIGTERM:
        return  # the rest is the same as for SIGINT
    code, output = slow.workspace.run("slow", TARGET)
    assert code == 0, output
    assert sorted(slow.jobs()["state"].str.split().str[0]) == ["CANCELLED", "COMPLETED"]
    # SIGTERM made it save, long before the checkpoint of the first validation.
    second = (slow.run.slurm / f"{slow.jobs()['id'].iloc[-1]}_0_log.err").read_text()
    assert "| 0/240" not in second
    pd.testing.assert_frame_equal(metrics(slow.run), undisturbed(slow.run), check_exact=True)


def test_a_training_process_that_was_killed_is_a_failed_run_and_is_tried_again(slow, undisturbed):
    first = slow.start()
    slow.wait_until_it_trains()
    (job,) = slow.submitted
    trainers = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("SLURM_JOB_ID") == job
        and "submitit.core._submit" in process.info["cmdline"]
        and "srun" not in process.info["cmdline"][0]
    ]
    subprocess.run([CLUSTER, "stop", "slurmdbd"], check=True)  # the launcher needs no accounting
    try:
        for process in trainers:
            process.kill()
        output, _ = first.communicate()
    finally:
        subprocess.run([CLUSTER, "start", "slurmdbd"], check=True)
    assert first.returncode == 1
    summary = slow.run.summary
    assert summary["status"] == "failed"
    assert summary["reason"].startswith(f"job {job} FAILED: ")
    assert "Killed" in summary["reason"]
    assert any("Killed" in line for line in summary["log"])
    assert 0 < summary["steps"] < 240
    assert "1 failed; the same command tries again:\n  results/runs/tiny/slow/" in output
    code, output = slow.workspace.run("slow", TARGET)
    assert code == 0, output
    assert slow.run.summary["status"] == "completed"
    assert len(slow.jobs()) == 2
    pd.testing.assert_frame_equal(metrics(slow.run), undisturbed(slow.run), check_exact=True)


def test_the_controller_may_be_killed_and_started_again(slow, undisturbed):
    # The controller may have lost the record that it started the job. It then finds the job on the
    # node, drains the node until somebody resumes it, and holds the job until it is released.
    first = slow.start()
    slow.wait_until_it_trains()
    (slurmctld,) = [
        process for process in psutil.process_iter(["name"]) if process.info["name"] == "slurmctld"
    ]
    slurmctld.kill()
    slurmctld.wait()
    subprocess.run([CLUSTER, "up"], check=True)
    wait_until(lambda: subprocess.run([CLUSTER, "resume"], check=True) and first.poll() is not None)
    output, _ = first.communicate()
    assert first.returncode == 0, output
    assert slow.run.summary["status"] == "completed"
    assert slow.jobs()["state"].tolist() == ["COMPLETED"]
    pd.testing.assert_frame_equal(metrics(slow.run), undisturbed(slow.run), check_exact=True)
