"""The batch script of `make plan` is the script that submitit would submit."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from submitit.slurm.slurm import _make_sbatch_string

from experiments.launch.slurm.jobs import batch_script, parameters
from experiments.launch.slurm.settings import JobSettings


@pytest.mark.parametrize("folder", ["/results/run/slurm", "/my results/it's $HOME/slurm"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"setup": ["module load x"], "sbatch": {"comment": "a b"}, "tasks_per_node": 2}],
)
def test_the_script_is_that_of_submitit(settings, folder):
    job = JobSettings(memory_gb=2, time_minutes=10, **settings)
    path = os.environ["PATH"]
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(folder)}"
    expected = _make_sbatch_string(
        command=command, folder=Path(folder), **parameters(job, "a-name")
    )
    assert batch_script(job, "a-name", Path(folder)) == expected
    assert os.environ["PATH"] == path
