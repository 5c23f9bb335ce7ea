"""Fixtures for tests on a real SLURM cluster: working directories of the pipeline."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiments.runs.folder import RunFolder
from tests.analysis.conftest import write_studies
from tests.conftest import profile_values, write_profile

ROOT = Path(__file__).parent.parent.parent
JOB = {"memory_gb": 0.5, "time_minutes": 5, "save_seconds": 10}
TIMES = ["step_seconds", "optimizer_seconds"]


def _missing() -> str:
    """Return why these tests cannot run; "" if SLURM is running."""
    if not shutil.which("sbatch"):
        return "SLURM is not installed (tests/slurm/cluster.sh install)"
    if subprocess.run(["sinfo"], capture_output=True).returncode:
        return "SLURM is not running (tests/slurm/cluster.sh up)"
    return ""


def pytest_collection_modifyitems(items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if here and (reason := _missing()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Workspace:
    """A working directory of a user of the cluster.

    Args:
        path: the directory.
        text_file: text to train on.
    """

    path: Path
    text_file: Path

    def write_profile(
        self, name: str, experiments=None, optimizers=None, models=None, **training
    ) -> None:
        """Write a profile of tiny runs."""
        values = profile_values(self.text_file, **training)
        values["experiments"] = experiments or values["experiments"]
        values["optimizers"] = optimizers or {}
        values["models"] = models or values["models"]
        if not (self.path / "results" / "step_cost.csv").exists():
            write_studies(self.path / "results")  # else measured, which takes minutes
        write_profile(self.path / f"{name}.yaml", values)

    def write_cluster(self, by_model: dict[str, Any] | None = None, **job: Any) -> None:
        """Write the resources that jobs request, and a copy of the project's SLURM profile."""
        folder = self.path / "profiles" / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "profiles" / "slurm" / "config.yaml", folder)
        values = {"slurm": {"default": JOB | job, "by_model": by_model or {}}}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(values))

    def start(self, profile: str, *targets: str, options=(), env=None) -> subprocess.Popen:
        """Start Snakemake on the cluster, in its own process group, as a shell does."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
                *("--workflow-profile", str(ROOT / "profiles" / "default")),
                *("--profile", "profiles/slurm", *options),
                *("--config", f"profile={profile}.yaml", "--", *targets),
            ],
            cwd=self.path,
            env=env or os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, profile: str, *targets: str, options=(), env=None) -> tuple[int, str]:
        """Run Snakemake on the cluster; return its exit code and what it printed."""
        process = self.start(profile, *targets, options=options, env=env)
        output, _ = process.communicate()
        return process.returncode, output

    def runs(self, pattern: str = "*/*/*") -> list[RunFolder]:
        """Return the runs whose folders match, sorted by path."""
        return [RunFolder(path) for path in sorted((self.path / "results/runs").glob(pattern))]

    def ended_jobs(self) -> pd.DataFrame:
        """Wait until all jobs of this workspace have ended in SLURM's accounting; return them."""
        wait_until(lambda: not self.jobs()["state"].isin(["PENDING", "RUNNING", "REQUEUED"]).any())
        return self.jobs()

    def jobs(self) -> pd.DataFrame:
        """Return the jobs submitted from this workspace, as SLURM's accounting has them now."""
        command = ["sacct", "--allocations", "--noheader", "--parsable2"]
        command += ["--starttime=now-1day", "--format=JobID,State,WorkDir,JobName"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [line.split("|") for line in done.stdout.splitlines()]
        jobs = pd.DataFrame(rows, columns=["id", "state", "folder", "name"])
        return jobs[jobs["folder"] == str(self.path)].reset_index(drop=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, text_file):
    """Return a workspace, one per test module."""
    made = Workspace(tmp_path_factory.mktemp("cluster"), text_file)
    made.write_cluster()
    return made


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Poll until the condition is true; fail after a number of seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s"
        time.sleep(0.1)


def last_step(run: RunFolder) -> int:
    """Return the last step that was logged; 0 before the first."""
    log = run.training.path / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def metrics(run: RunFolder) -> pd.DataFrame:
    """Return a run's metrics without the measured times."""
    return pd.read_parquet(run.path / "metrics.parquet").drop(columns=TIMES)


def train_here(run: RunFolder, folder: Path, corpus: Path, **optimizer_args: Any) -> RunFolder:
    """Train a job's run again in another folder, without SLURM, in one process."""
    spec = json.loads((run.training.path / "spec.json").read_text())
    spec["optimizer"]["args"] |= optimizer_args
    command = [sys.executable, "-m", "experiments", "launch", "--folder", str(folder)]
    command += ["--spec", json.dumps(spec), "--corpus", str(corpus)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return RunFolder(folder)
