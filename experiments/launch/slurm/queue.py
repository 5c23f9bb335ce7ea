"""The jobs of the user that have not ended, asked once a minute by all launchers together."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.files import atomic, locked, make_folder, read_object
from experiments.launch.slurm.commands import SlurmError, run_command

POLL_SECONDS = 60  # between two looks at the queue, whatever the number of launchers


_FIELDS = "%i|%j|%T|%r"  # job id, name, state, reason


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
            lines = run_command("squeue", "--me", "--noheader", f"--format={_FIELDS}").splitlines()
            jobs = [QueuedJob(*line.split("|", 3)) for line in lines]
            look = Look(asked, {job.id: job for job in jobs})
        except SlurmError as error:
            look = Look(asked, {}, str(error))
        with atomic(self._path) as path:
            path.write_text(json.dumps(asdict(look)), encoding="utf-8")
        return look
