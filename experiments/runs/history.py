"""The history of a run: a line of JSON for each event."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from experiments.files import append_line, read_lines

Event = Literal[
    "submitting",  # a launcher is about to submit a job to SLURM
    "submitted",  # SLURM has accepted the job
    "started",  # training was started or resumed
    "requeued",  # the job reached its time limit, or was preempted, and is back in the queue
    "exhausted",  # the job was stopped with no attempts left
    "cancelled",  # the launcher was stopped, and stopped the training
    "failed",  # the run ended without a result
    "restarted",  # the checkpoint was damaged: training began again at the first step
]


class History:
    """The events of a run, oldest first.

    Args:
        path: the file of lines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: Event, **facts: Any) -> None:
        """Add an event with the current time."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        append_line(self._path, {"time": time, "event": event} | facts)

    def events(self, *kinds: Event) -> list[dict[str, Any]]:
        """Return the events of some kinds."""
        return [event for event in read_lines(self._path) if event.get("event") in kinds]
