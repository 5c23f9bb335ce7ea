"""A grid of forty runs, of which one crashes and one diverges, ends with a full report."""

import json
import os
import re
import shutil
import stat
import subprocess

import pandas as pd
import psutil
import pytest

from experiments.files import read_lines
from experiments.runs.folder import RunFolder
from tests.slurm.conftest import ROOT, wait_until

SLURM = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct")
OPTIMIZERS = {
    "crashing": {"class": "tests.slurm.optimizers.Crashing"},
    "diverging": {"class": "torch.optim.SGD"},
}
LAUNCHER_BYTES = 60e6  # upper bound on the memory of one launcher


def counting(folder):
    """Return an environment whose PATH has wrappers of SLURM's commands that log each call."""
    for name in SLURM:
        path = folder / name
        path.write_text(
            f'#!/bin/sh\necho {name} >> {folder}/calls\nexec {shutil.which(name)} "$@"\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def grid(workspace, tmp_path_factory):
    """Run the grid; return its exit code, its output, and measurements of its launchers."""
    calls = tmp_path_factory.mktemp("calls")
    entries = {
        name: entry | {"label": name, "source": "a test"} for name, entry in OPTIMIZERS.items()
    }
    common = {"models": ["tiny"], "optimizers": ["powerstep"]}
    experiments = {
        "comparison": common | {"seeds": list(range(38))},
        "crash": common | {"optimizers": ["crashing"], "seeds": [0]},
        "divergence": common | {"optimizers": ["diverging"], "seeds": [0], "lr": [1e30]},
    }
    workspace.write_profile("forty", experiments, entries, steps=8, weight_decay=0.0)
    process = workspace.start("forty", options=["--jobs", "8"], env=counting(calls))
    most_bytes, most_jobs = 0, 0

    def look():
        nonlocal most_bytes, most_jobs
        sizes = []
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if "launch" in child.cmdline():
                    sizes.append(child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        most_bytes, most_jobs = max([most_bytes, *sizes]), max(most_jobs, len(sizes))
        return process.poll() is not None

    wait_until(look, seconds=1800)
    output = process.stdout.read()
    lines = (calls / "calls").read_text().split()
    return {
        "code": process.returncode,
        "output": output,
        "launcher_bytes": most_bytes,
        "launchers": most_jobs,
        "calls": {name: lines.count(name) for name in SLURM},
    }


def runs_of(workspace, optimizer) -> list[RunFolder]:
    return workspace.runs(f"tiny/{optimizer}/*")


def test_38_completed_1_failed_1_diverged(workspace, grid):
    statuses = [run.summary["status"] for run in workspace.runs()]
    counts = {status: statuses.count(status) for status in set(statuses)}
    assert counts == {"completed": 38, "failed": 1, "diverged": 1}
    assert grid["code"] == 1  # one failed
    assert "40 runs: 38 completed, 1 failed, 1 diverged" in grid["output"]


def test_the_report_is_made_and_names_the_failure(workspace, grid):
    report = (workspace.path / "results/forty/report.html").read_text()
    assert "38 completed, 1 failed, 1 diverged" in report
    assert "RuntimeError: this optimizer has a bug" in report
    named = grid["output"][grid["output"].index("1 failed; the same command tries again") :]
    assert "results/runs/tiny/crashing/" in named
    runs = pd.read_csv(workspace.path / "results/forty/runs.csv")
    assert runs["status"].value_counts().to_dict() == {"completed": 38, "failed": 1, "diverged": 1}


def test_a_failed_run_keeps_the_end_of_its_log(workspace, grid):
    (run,) = runs_of(workspace, "crashing")
    summary = run.summary
    reason = r"RuntimeError: optimizers.crashing: .* RuntimeError: this optimizer has a bug \(.*\)"
    assert re.search(f"FAILED: {reason}$", summary["reason"])
    assert any(re.fullmatch(reason, line) for line in summary["log"])
    assert summary["steps"] == 2
    assert [row["step"] for row in read_lines(run.training.metrics_log)] == [1, 2]


def test_each_run_is_one_job_and_at_most_eight_are_submitted(workspace, grid):
    assert len(workspace.ended_jobs()) == 40
    assert workspace.ended_jobs()["name"].is_unique
    assert 1 < grid["launchers"] <= 8


def test_launchers_are_light_and_ask_slurm_seldom(workspace, grid, record_property):
    record_property("launcher_bytes", grid["launcher_bytes"])
    record_property("calls", json.dumps(grid["calls"]))
    print(f"launcher: {grid['launcher_bytes'] / 1e6:.1f} MB; calls: {grid['calls']}")
    assert 0 < grid["launcher_bytes"] < LAUNCHER_BYTES
    calls = grid["calls"]
    events = [
        event for run in workspace.runs() for event in run.history.events("submitting", "failed")
    ]
    assert calls["sbatch"] == 40 + 1  # the extra call is `sbatch --test-only`
    assert calls["scontrol"] == 1  # to learn how the crashed job ended
    assert calls["sacct"] == calls["scancel"] == 0
    times = pd.to_datetime([event["time"] for event in events])
    minutes = (times.max() - times.min()).total_seconds() / 60
    assert calls["squeue"] <= minutes + 3


def test_the_grid_can_be_watched(workspace, grid):
    command = ["python", "-m", "experiments", "status", "--profile", "forty.yaml"]
    done = subprocess.run(
        command,
        cwd=workspace.path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("40 runs: 38 completed, 1 failed, 1 diverged\n")
    (crashed,) = re.findall(r"^tiny +crashing .*$", done.stdout, re.MULTILINE)
    assert "failed" in crashed
    assert runs_of(workspace, "crashing")[0].summary["launch"]["job"] in crashed
