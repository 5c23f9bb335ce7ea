"""What happened to a run: a line of JSON for each event, kept beside it."""

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

Event = Literal[
    "submitting",  # a launcher is about to give it to SLURM
    "submitted",  # as this job
    "started",  # training began, or went on, on a machine
    "requeued",  # it was told to stop, and went back to the queue
    "exhausted",  # it was told to stop once more than it may go on
    "cancelled",  # its launcher was stopped, and stopped it
    "failed",  # it ended without a result
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
        with self._path.open("a") as file:
            file.write(json.dumps({"time": time, "event": event} | facts) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self, *kinds: Event) -> list[dict[str, Any]]:
        """Return the events of some kinds."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines(keepends=True)
        # A process that was killed may have left half a line at the end.
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["event"] in kinds]
