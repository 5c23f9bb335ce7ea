"""A profile trained on SLURM has bit for bit the metrics of the same profile without SLURM."""

import json
import os
import subprocess

import pandas as pd
import pytest

from tests.slurm.conftest import ROOT, metrics, train_here


@pytest.fixture(scope="module")
def trained(workspace):
    """Return a workspace with a trained profile, and the jobs announced before it was trained."""
    workspace.write_profile("tiny")
    workspace.write_cluster(sbatch={"comment": "a test"}, setup=["export GREETING=hello"])
    command = ["python", "-m", "experiments", "jobs", "--profile", "tiny.yaml"]
    command += ["--cluster", "profiles/slurm/cluster.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    planned = subprocess.run(
        command, cwd=workspace.path, env=environment, capture_output=True, text=True, check=True
    )
    code, output = workspace.run("tiny", "results/tiny/tables/table4.md")
    assert code == 0, output
    return workspace, planned.stdout


def test_each_run_is_one_job(trained):
    workspace, _ = trained
    jobs = workspace.ended_jobs()
    assert jobs["state"].tolist() == ["COMPLETED"] * 4
    assert jobs["name"].is_unique
    launched = [run.summary["launch"] for run in workspace.runs()]
    assert sorted(launch["job"] for launch in launched) == sorted(jobs["id"])
    assert {launch["attempts"] for launch in launched} == {1}


def test_the_metrics_are_those_of_one_machine_bit_for_bit(trained, tmp_path):
    workspace, _ = trained
    corpus = next((workspace.path / "results" / "corpora").iterdir())
    runs = workspace.runs()
    assert len(runs) == 4
    for run in runs[::3]:
        here = train_here(run, tmp_path / run.path.name, corpus)
        pd.testing.assert_frame_equal(metrics(run), metrics(here), check_exact=True)
        assert run.summary["final_val_loss"] == here.summary["final_val_loss"]


def test_the_script_is_the_one_that_was_announced(trained):
    workspace, planned = trained
    assert "tiny: 4 jobs, each 1 node with 1 process, 1 CPU each, 0.5 GB a node, 5 min" in planned
    announced = planned[planned.index("#!/bin/bash") :].strip()
    scripts = [
        (run.slurm / f"{run.summary['launch']['job']}_submission.sh").read_text().strip()
        for run in workspace.runs()
    ]
    assert announced in scripts
    for line in ("#SBATCH --comment='a test'", "#SBATCH --mem=512M", "#SBATCH --time=5"):
        assert line in announced
    assert "\nexport GREETING=hello\n" in announced


def test_settings_of_the_cluster_train_nothing_again(trained):
    workspace, _ = trained
    workspace.write_cluster(time_minutes=7)
    code, output = workspace.run("tiny", "results/tiny/tables/table4.md", options=["--dry-run"])
    assert code == 0
    assert "Nothing to be done" in output


def test_a_finished_run_whose_summary_was_deleted_is_not_trained_again(trained):
    workspace, _ = trained
    (run, *_) = workspace.runs()
    summary = json.loads((run.path / "summary.json").read_text())
    (run.path / "summary.json").unlink()
    (workspace.path / "results/tiny/tables/table4.md").unlink()
    code, output = workspace.run("tiny", "results/tiny/tables/table4.md")
    assert code == 0, output
    assert json.loads((run.path / "summary.json").read_text()) == summary
    assert len(workspace.ended_jobs()) == 4
