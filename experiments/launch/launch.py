"""The launcher of one run: it has the run trained, here or by SLURM, and sees it to its end.

It imports no torch: a login node may have to hold a hundred of it at once.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from experiments.files import locked, make_folder
from experiments.runs.folder import RunFolder


@dataclass(frozen=True)
class Failure:
    """How a run ended that has no result."""

    status: Literal["failed", "timeout"]
    reason: str  # one line
    log: Path  # what it said last


class Stopped(SystemExit):
    """The launcher was told to stop, by Ctrl-C or SIGTERM."""


def launch(run: RunFolder, train: Callable[[], Failure | None]) -> str:
    """Have a run trained unless its result is there already, and put the result in its place.

    Args:
        run: where its files go.
        train: trains it, and returns at its end.

    Returns:
        The run's status: completed, diverged, failed or timeout.

    Raises:
        Stopped: the launcher was told to stop; `train` has stopped what it started.
        FileError: a file of the run cannot be written.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    make_folder(run.path)
    # Wait until no other launcher has the run: one may live on when Snakemake was killed.
    with locked(run.path / "launcher.lock"):
        failure = None if run.has_ended else train()
        if failure:
            run.history.append("failed", status=failure.status, reason=failure.reason)
            _record(run, failure)
            return failure.status
        return run.publish()


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let what must be done whole be done before the launcher is stopped."""
    held = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def _stop(number: int, _: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # Snakemake may send several; one is enough
    raise Stopped(128 + number)


def _record(run: RunFolder, failure: Failure) -> None:
    """Write what a failed run leaves to the analysis; in a process that may load pandas."""
    command = [sys.executable, "-m", "experiments", "record-failure", "--folder", str(run.path)]
    command += ["--status", failure.status, "--reason", failure.reason, "--log", str(failure.log)]
    with signals_held_back():
        code = subprocess.run(command).returncode
    if code:  # it has said why
        sys.exit(code)
