"""SLURM's commands: what a job's script says, whether SLURM takes it, and where jobs stand.

Jobs are submitted by submitit (experiments.launch.slurm.launcher). Imports no torch.
"""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from experiments.files import atomic, locked, make_folder, read_object
from experiments.launch.slurm.settings import ClusterSettings, JobSettings
from experiments.plan.grid import RunSpec
from experiments.runs.folder import RunFolder
from experiments.settings import ConfigError, LocatedError

POLL_SECONDS = 60  # between two looks at the queue, whatever the number of launchers
_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
_FIELDS = "%i|%j|%T|%r"  # job id, name, state, reason


class SlurmError(RuntimeError):
    """A command of SLURM failed; the text is what it said."""

    @property
    def is_of_the_controller(self) -> bool:
        """Whether the controller could not be reached, which may be better in a minute."""
        return bool(re.search("Unable to contact|timed out|gave no answer", str(self)))


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
    for command in _COMMANDS:
        if not shutil.which(command):
            raise LocatedError(
                f"{command} is not on PATH, but submitting to SLURM needs"
                f" {', '.join(_COMMANDS)}: start where they are, or without the profile for SLURM"
                " to train on this machine"
            )
    try:
        partitions = sorted(set(_run("sinfo", "--noheader", "--format=%R").split()))
    except SlurmError as error:
        raise LocatedError(f"SLURM does not answer, and nothing was submitted: {error}") from None
    for model in models:
        job = cluster.job_of(model)
        if job.partition and job.partition not in partitions:
            raise ConfigError(
                f"{cluster.where(model, 'partition')} is {job.partition!r}, but it must be one of"
                f" {', '.join(partitions)}"
            )
        try:
            header = _make_sbatch_string("true", "slurm", **parameters(job, model))
            _run("sbatch", "--test-only", stdin=header)
        except SlurmError as error:
            raise ConfigError(
                f"slurm, for {model}: SLURM refuses {job}, but it must be what a partition has:"
                f" {error}"
            ) from None


@dataclass(frozen=True)
class QueuedJob:
    """A job that has not ended."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, …
    reason: str  # why it is pending


@dataclass(frozen=True)
class Look:
    """What SLURM answered to the question which jobs of the user have not ended."""

    asked: float  # when; as of time.time
    jobs: dict[str, QueuedJob]  # by id
    error: str = ""  # why there was no answer


class Queue:
    """The user's jobs that have not ended.

    The last look is kept in a file that all launchers share, so that together they ask once a
    minute; also when there is no answer.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self, since: float) -> Look:
        """Return a look at the queue that was taken at `since`, of time.time, or later.

        Raises:
            SlurmError: the controller did not answer.
            FileError: the file cannot be written.
        """
        make_folder(self._path.parent)
        with locked(self._path.with_suffix(".lock")):
            look = self.last()
            if look.asked < since:
                look = self._ask()
        if look.error:
            raise SlurmError(look.error)
        return look

    def last(self) -> Look:
        """Return the last look; asks nobody. It is empty, and of 1970, where there is none."""
        try:
            kept = read_object(self._path) or {}
            jobs = {key: QueuedJob(**job) for key, job in kept["jobs"].items()}
            return Look(float(kept["asked"]), jobs, kept["error"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return Look(0.0, {})

    def _ask(self) -> Look:
        asked = time.time()
        try:
            lines = _run("squeue", "--me", "--noheader", f"--format={_FIELDS}").splitlines()
            jobs = [QueuedJob(*line.split("|", 3)) for line in lines]
            look = Look(asked, {job.id: job for job in jobs})
        except SlurmError as error:
            look = Look(asked, {}, str(error))
        with atomic(self._path) as path:
            path.write_text(json.dumps(asdict(look)), encoding="utf-8")
        return look


def end_of(job_id: str) -> str:
    """Return the state in which a job ended, such as TIMEOUT; "" where SLURM has forgotten it."""
    try:
        text = _run("scontrol", "--oneliner", "show", "job", job_id)
    except SlurmError:
        return ""
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
    return fields.get("JobState", "")


def cancel(job_id: str) -> None:
    """Cancel a job; one that has ended is left as it is.

    Raises:
        SlurmError: the controller does not answer.
    """
    _run("scancel", "--quiet", job_id)


def release(job_id: str) -> None:
    """Let a job start that SLURM holds back."""
    _run("scontrol", "release", job_id)


def _run(*command: str, stdin: str | None = None) -> str:
    """Return what a command prints, or raise with what it complains of."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=120,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in two minutes") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SlurmError(f"{command[0]}: {lines[-1] if lines else 'no reason given'}")
    return done.stdout
