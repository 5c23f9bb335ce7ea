"""What happened to a run: a line of JSON for each event, kept beside it."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from experiments.files import append_line, read_lines

Event = Literal[
    "submitting",  # a launcher is about to give it to SLURM
    "submitted",  # as this job
    "started",  # training began, or went on, on a machine
    "requeued",  # it was told to stop, and went back to the queue
    "exhausted",  # it was told to stop once more than it may go on
    "cancelled",  # its launcher was stopped, and stopped it
    "failed",  # it ended without a result
    "restarted",  # its checkpoint was damaged: training began with the first step again
]


class History:
    """The events of a run, oldest first.

    Args:
        path: the file of lines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: Event, **facts: Any) -> None:
        """Add an event of now."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        append_line(self._path, {"time": time, "event": event} | facts)

    def events(self, *kinds: Event) -> list[dict[str, Any]]:
        """Return the events of some kinds."""
        return [event for event in read_lines(self._path) if event.get("event") in kinds]
