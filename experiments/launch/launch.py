"""The launcher of one run: it starts training, here or in a SLURM job, and waits for the end.

It imports neither torch nor pandas: a login node may have to hold a hundred launchers at once.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from experiments.files import locked, make_folder
from experiments.runs.folder import RunFolder
from experiments.runs.summary import Failure


class Stopped(SystemExit):
    """The launcher was stopped by Ctrl-C or SIGTERM."""


def launch(run: RunFolder, train: Callable[[], Failure | None]) -> str:
    """Train a run unless it has a result already, and publish the result.

    Args:
        run: the folder of the run.
        train: trains the run to its end; returns why it has no result, or None if it has one.

    Returns:
        The run's status: completed, diverged, failed or timeout.

    Raises:
        Stopped: the launcher was stopped; `train` has stopped what it started.
        FileError: a file of the run cannot be written.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    make_folder(run.path)
    # Wait for any other launcher of the run: it may outlive a killed Snakemake.
    with locked(run.launcher_lock):
        failure = None if run.training.has_result else train()
        if failure is None:
            return run.publish()["status"]
        with signals_held_back():
            run.history.append("failed", status=failure.status, reason=failure.reason)
            return run.record_failure(failure)["status"]


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block has ended."""
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
