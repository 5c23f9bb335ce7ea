"""Where the files of one run lie."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.files import atomic
from experiments.history import History


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: what it ended in, and below it what it is computed with.

    Snakemake deletes summary.json and metrics.parquet before it starts a run anew. So training
    writes them below, and they are copied up at the end: what was computed is not lost.
    """

    path: Path

    @property
    def training(self) -> Path:
        """Folder of the training process: metrics, checkpoint, and its result."""
        return self.path / "training"

    @property
    def slurm(self) -> Path:
        """Folder of the run's jobs: scripts and logs."""
        return self.path / "slurm"

    @property
    def history(self) -> History:
        """What happened to the run so far."""
        return History(self.path / "history.jsonl")

    @property
    def has_ended(self) -> bool:
        """Whether training came to its end, completed or diverged."""
        return (self.training / "summary.json").exists()

    @property
    def last_sign_of_life(self) -> float:
        """When training last logged a step, as of time.time; 0 where it has not."""
        metrics = self.training / "metrics.jsonl"
        return metrics.stat().st_mtime if metrics.exists() else 0.0

    @property
    def failures(self) -> int:
        """How often the run failed."""
        return len(self.history.events("failed"))

    @property
    def summary(self) -> dict[str, Any]:
        """What it came out as; empty where it has not yet."""
        summary = self.path / "summary.json"
        return json.loads(summary.read_text()) if summary.exists() else {}

    @property
    def is_done(self) -> bool:
        """Whether it came out completed or diverged: then it need not be trained again."""
        return self.summary.get("status") in ("completed", "diverged")

    def publish(self) -> str:
        """Copy the result up, with the jobs and starts it took; return its status."""
        summary = json.loads((self.training / "summary.json").read_text())
        starts = self.history.events("started")
        summary["launch"] = {"attempts": len(starts), "job": starts[-1].get("job")}
        with atomic(self.path / "metrics.parquet") as path:
            shutil.copyfile(self.training / "metrics.parquet", path)
        with atomic(self.path / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")
        return summary["status"]
