"""A request that SLURM would refuse is reported in one sentence before anything is submitted."""

import os
import re
import shutil
import subprocess

import pytest

from tests.slurm.conftest import ROOT

TARGET = "results/tiny/tables/table4.md"


@pytest.fixture
def refusal(workspace):
    """Return a function that runs the pipeline, which must fail, and returns its one error."""
    workspace.write_profile("tiny")

    def run(**how):
        code, output = workspace.run("tiny", TARGET, **how)
        assert code == 1
        (error,) = re.findall("^error: .*", output, re.MULTILINE)
        assert "Traceback" not in output
        assert not (workspace.path / "results" / "runs").exists()
        return error

    return run


@pytest.mark.parametrize(
    ("job", "by_model", "message"),
    [
        (
            {"partition": "gpuu"},
            {},
            r"line \d: slurm.default.partition is 'gpuu', but it must be one of debug",
        ),
        (
            {},
            {"tiny": {"partition": "gpuu"}},
            r"cluster.yaml, line 4: slurm.by_model.tiny.partition is 'gpuu'",
        ),
        (
            {"nodes": 4},
            {},
            r"for tiny: SLURM refuses 4 nodes .*Requested node configuration is not available",
        ),
        ({"memory_gb": 1e6}, {}, r"SLURM refuses .* 1e\+06 GB a node"),
        ({"gpus_per_task": 1}, {}, r"SLURM refuses .*Invalid generic resource"),
        ({"time_minutes": 0}, {}, r"line \d: slurm.default.time_minutes is 0, but it should be"),
        ({"minutes": 5}, {}, r"slurm.default: unknown key 'minutes'; accepted: .*time_minutes"),
        ({"sbatch": {"mem": "1G"}}, {}, r"sbatch has 'mem', but that follows from other settings"),
        ({"save_seconds": 300}, {}, r"save_seconds is 300, but it must be below .* 300 seconds"),
        ({}, {"tinny": {"nodes": 1}}, r"slurm.by_model has 'tinny', but it must be one of "),
    ],
)
def test_what_slurm_refuses(workspace, refusal, job, by_model, message):
    workspace.write_cluster(by_model, **job)
    assert re.search(message, refusal())


def test_srun_missing(workspace, refusal, tmp_path):
    for command in ("sbatch", "squeue", "scontrol", "scancel", "sinfo"):
        (tmp_path / command).symlink_to(shutil.which(command))
    folders = os.environ["PATH"].split(os.pathsep)
    without = [folder for folder in folders if not os.path.exists(os.path.join(folder, "srun"))]
    for command in ("bash", "sh", "env", "git"):
        (tmp_path / command).symlink_to(shutil.which(command))
    path = os.pathsep.join([str(tmp_path), *without])
    workspace.write_cluster()
    error = refusal(env=os.environ | {"PATH": path})
    assert error.startswith(
        "error: srun is not on PATH, but submitting to SLURM needs sbatch, srun"
    )


def test_the_controller_down(workspace, refusal):
    workspace.write_cluster()
    cluster = str(ROOT / "tests" / "slurm" / "cluster.sh")
    subprocess.run([cluster, "stop", "slurmctld"], check=True)
    try:
        error = refusal()
    finally:
        subprocess.run([cluster, "up"], check=True)
    assert "SLURM does not answer, and nothing was submitted" in error
    assert "Unable to contact slurm controller" in error
