"""Snapshots of the user's SLURM queue, taken once a minute for all launchers together."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.files import atomic, locked, make_folder, read_object
from experiments.launch.slurm.commands import SlurmError, run_command

POLL_SECONDS = 60  # seconds between two snapshots, however many launchers there are
_FIELDS = "%i|%j|%T|%r"  # squeue's format: job id, name, state, reason


@dataclass(frozen=True)
class QueuedJob:
    """A job that has not ended."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, …
    reason: str  # why the job is pending


@dataclass(frozen=True)
class Snapshot:
    """The user's jobs that had not ended at some time."""

    time: float  # seconds, as time.time()
    jobs: dict[str, QueuedJob]  # by job id
    error: str = ""  # why SLURM did not answer; then `jobs` is empty


class Queue:
    """The user's jobs that have not ended.

    The last snapshot is in a file that all launchers share, so that together they ask SLURM once
    a minute, even if it does not answer.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def snapshot(self, since: float) -> Snapshot:
        """Return a snapshot that was taken at `since`, in seconds as time.time(), or later.

        Raises:
            SlurmError: the controller did not answer.
            FileError: the file cannot be written.
        """
        make_folder(self._path.parent)
        with locked(self._path.with_suffix(".lock")):
            snapshot = self.last()
            if snapshot.time < since:
                snapshot = self._take()
        if snapshot.error:
            raise SlurmError(snapshot.error)
        return snapshot

    def last(self) -> Snapshot:
        """Return the last snapshot, or an empty one of time 0; SLURM is not asked."""
        try:
            kept = read_object(self._path) or {}
            jobs = {key: QueuedJob(**job) for key, job in kept["jobs"].items()}
            return Snapshot(float(kept["time"]), jobs, kept["error"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return Snapshot(0.0, {})

    def _take(self) -> Snapshot:
        now = time.time()
        try:
            lines = run_command("squeue", "--me", "--noheader", f"--format={_FIELDS}").splitlines()
            jobs = [QueuedJob(*line.split("|", 3)) for line in lines]
            snapshot = Snapshot(now, {job.id: job for job in jobs})
        except SlurmError as error:
            snapshot = Snapshot(now, {}, str(error))
        with atomic(self._path) as path:
            path.write_text(json.dumps(asdict(snapshot)), encoding="utf-8")
        return snapshot
