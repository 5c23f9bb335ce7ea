"""The jobs of runs: their names, options and batch scripts, and whether SLURM accepts them."""

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from submitit import SlurmExecutor

from experiments.launch.slurm.commands import COMMANDS, SlurmError, run_command
from experiments.launch.slurm.settings import ClusterSettings, JobSettings
from experiments.plan.spec import RunSpec
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.settings import ConfigError


def parameters(job: JobSettings, name: str) -> dict[str, Any]:
    """Return the parameters of submitit's executor for a job."""
    asked = {
        "job_name": name,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node,
        "cpus_per_task": job.cpus_per_task,
        # By node, because --gpus-per-task hides the other GPUs of the node from each process.
        "gpus_per_node": job.tasks_per_node if job.gpus_per_task else None,
        "mem": f"{round(job.memory_gb * 1024)}M",
        "time": job.time_minutes,
        "signal_delay_s": job.save_seconds,
        # Requeue the job if its node fails, even where the site's default is not to.
        "additional_parameters": {"requeue": True, **job.sbatch},
        "setup": list(job.setup) or None,
        # If one process dies, end the others: they would wait for it until the time limit.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={job.cpus_per_task}"],
    }
    return {key: value for key, value in asked.items() if value is not None}


def job_name(spec: RunSpec, run: RunFolder) -> str:
    """Return the name of a run's jobs, unique among all checkouts of the user."""
    digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:8]
    return f"{spec.model_name}_{spec.optimizer.name}_{digest}"


def batch_script(job: JobSettings, name: str, folder: Path) -> str:
    """Return the batch script that submitit writes for a job; nothing is submitted.

    submitit has no function for this, so a job is submitted to a stand-in for sbatch.

    Args:
        job: the settings of the job.
        name: the job's name.
        folder: the folder for the job's files; it need not exist.
    """
    with TemporaryDirectory() as temporary, _stand_in_for_slurm(Path(temporary, "bin")):
        executor = SlurmExecutor(Path(temporary, "job"))
        executor.update_parameters(**parameters(job, name))
        text = executor.submit(print).paths.submission_file.read_text(encoding="utf-8")
    of_job = re.compile(re.escape(str(executor.folder)) + r"\S*")
    return of_job.sub(
        lambda path: shlex.quote(path[0].replace(str(executor.folder), str(folder))), text
    )


@contextmanager
def _stand_in_for_slurm(folder: Path) -> Iterator[None]:
    """Put an sbatch that submits nothing first on PATH, and the srun that submitit looks for."""
    folder.mkdir()
    for name in ("sbatch", "srun"):
        command = folder / name
        command.write_text("#!/bin/sh\necho Submitted batch job 0\n", encoding="utf-8")
        command.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = os.pathsep.join([str(folder), path])
    try:
        yield
    finally:
        os.environ["PATH"] = path


def describe_jobs(
    specs: Iterable[RunSpec], cluster: ClusterSettings, results: ResultsFolder
) -> str:
    """Return the jobs of all unfinished runs by model, each with its first run's batch script."""
    by_model: dict[str, dict[str, RunSpec]] = {}
    for spec in specs:
        if not results.run(spec.path).is_done:
            by_model.setdefault(spec.model_name, {})[spec.path] = spec
    parts = []
    for model, runs in by_model.items():
        job, spec = cluster.job_of(model), next(iter(runs.values()))
        run = results.run(spec.path)
        script = batch_script(job, job_name(spec, run), run.slurm.absolute())
        parts.append(f"{model}: {len(runs)} jobs, each {job}; the first one's script:\n\n{script}")
    return "\n".join(parts) or "every run is done"


def check_cluster(cluster: ClusterSettings, models: Iterable[str]) -> None:
    """Ask SLURM whether it would accept the jobs of some models; nothing is submitted.

    Raises:
        ConfigError: a command is missing, the controller does not answer, or a job is refused.
    """
    for command in COMMANDS:
        if not shutil.which(command):
            raise ConfigError(
                (),
                f"{command} is not on PATH, but submitting to SLURM needs {', '.join(COMMANDS)}:"
                " start where they are, or without the profile for SLURM to train on this machine",
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
            run_command("sbatch", "--test-only", stdin=batch_script(job, model, Path("slurm")))
        except SlurmError as error:
            raise ConfigError(
                ("slurm",),
                f", for {model}: SLURM refuses {job}, but it must be what a partition has: {error}",
            ) from None
