"""SLURM's commands: what a job's script says, whether SLURM takes it, and where jobs stand.

Jobs are submitted by submitit (experiments.launch.slurm.launcher). Imports no torch.
"""

import hashlib
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from experiments.launch.slurm.commands import COMMANDS, SlurmError, run_command
from experiments.launch.slurm.settings import ClusterSettings, JobSettings
from experiments.plan.spec import RunSpec
from experiments.runs.folder import RunFolder
from experiments.settings import ConfigError


def parameters(job: JobSettings, name: str) -> dict[str, Any]:
    """Return a job's settings by the names that submitit has for them."""
    asked = {
        "job_name": name,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node,
        "cpus_per_task": job.cpus_per_task,
        # Not by task, which would hide the other GPUs of the node from each process.
        "gpus_per_node": job.tasks_per_node if job.gpus_per_task else None,
        "mem": f"{round(job.memory_gb * 1024)}M",
        "time": job.time_minutes,
        "signal_delay_s": job.save_seconds,
        # A node that fails gives its jobs back, also where the site would not have it so.
        "additional_parameters": {"requeue": True, **job.sbatch},
        "setup": list(job.setup) or None,
        # One process that died ends the others, which would wait for it until the time limit.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={job.cpus_per_task}"],
    }
    return {key: value for key, value in asked.items() if value is not None}


def job_name(spec: RunSpec, run: RunFolder) -> str:
    """Return the name of a run's jobs, which no other run of the user has in any checkout."""
    digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:8]
    return f"{spec.model_name}_{spec.optimizer.name}_{digest}"


def script(job: JobSettings, spec: RunSpec, run: RunFolder) -> str:
    """Return the batch script that submitit writes for a run's job."""
    folder = run.slurm.absolute()
    command = (
        f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    )
    options = parameters(job, job_name(spec, run))
    return _make_sbatch_string(command=command, folder=folder, **options)


def describe_jobs(specs: Iterable[RunSpec], cluster: ClusterSettings, results: Path) -> str:
    """Return what the runs that are not done will ask for: for each model, and one script of it."""
    by_model: dict[str, dict[str, RunSpec]] = {}
    for spec in specs:
        if not RunFolder(results / "runs" / spec.path).is_done:
            by_model.setdefault(spec.model_name, {})[spec.path] = spec
    parts = []
    for model, runs in by_model.items():
        job, spec = cluster.job_of(model), next(iter(runs.values()))
        header = script(job, spec, RunFolder(results / "runs" / spec.path))
        parts.append(f"{model}: {len(runs)} jobs, each {job}; the first one's script:\n\n{header}")
    return "\n".join(parts) or "every run is done"


def check_cluster(cluster: ClusterSettings, models: Iterable[str]) -> None:
    """Ask SLURM whether it would take the jobs of some models; submits nothing.

    Raises:
        ConfigError: a command is missing, the controller does not answer, or a job is refused.
    """
    for command in COMMANDS:
        if not shutil.which(command):
            raise ConfigError(
                (),
                f"{command} is not on PATH, but submitting to SLURM needs"
                f" {', '.join(COMMANDS)}: start where they are, or without the profile for SLURM"
                " to train on this machine",
            )
    try:
        partitions = sorted(set(run_command("sinfo", "--noheader", "--format=%R").split()))
    except SlurmError as error:
        raise ConfigError(
            (), f"SLURM does not answer, and nothing was submitted: {error}"
        ) from None
    for model in models:
        job = cluster.job_of(model)
        if job.partition and job.partition not in partitions:
            raise ConfigError(
                cluster.field_of(model, "partition"),
                f"is {job.partition!r}, but it must be one of {', '.join(partitions)}",
            )
        try:
            header = _make_sbatch_string("true", "slurm", **parameters(job, model))
            run_command("sbatch", "--test-only", stdin=header)
        except SlurmError as error:
            raise ConfigError(
                ("slurm",),
                f", for {model}: SLURM refuses {job}, but it must be what a partition has: {error}",
            ) from None
