"""Where the files of one run lie."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.files import atomic, is_whole_parquet, read_object, set_aside
from experiments.runs.history import History

_SUMMARY, _METRICS = "summary.json", "metrics.parquet"


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
        """Whether training came to its end, completed or diverged, and its result is whole."""
        return _is_whole(self.training)

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
        """What it came out as; empty where it has not yet, or the file is damaged."""
        return _summary(self.path) or {}

    @property
    def launch(self) -> dict[str, Any]:
        """How often training was started, and in which job last."""
        starts = self.history.events("started")
        return {"attempts": len(starts), "job": starts[-1].get("job") if starts else None}

    @property
    def damaged(self) -> list[Path]:
        """The files of its result that are there but not as they were written.

        Of metrics.parquet only both ends are looked at.
        """
        summary, metrics = self.path / _SUMMARY, self.path / _METRICS
        found = [summary] if summary.exists() and not _summary(self.path) else []
        return found + ([metrics] if metrics.exists() and not is_whole_parquet(metrics) else [])

    def set_aside_damaged(self) -> list[Path]:
        """Rename damaged files of the result, so that it is made again; return their old paths."""
        damaged = self.damaged
        for path in damaged:
            set_aside(path)
        return damaged

    @property
    def is_done(self) -> bool:
        """Whether it came out completed or diverged: then it need not be trained again."""
        return self.summary.get("status") in ("completed", "diverged") and _is_whole(self.path)

    def publish(self) -> str:
        """Copy the result of a run that has ended up, with its starts; return its status."""
        summary = _summary(self.training) | {"launch": self.launch}
        with atomic(self.path / _METRICS) as path:
            shutil.copyfile(self.training / _METRICS, path)
        with atomic(self.path / _SUMMARY) as path:
            path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return summary["status"]


def _summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary in a folder; None where there is none, or it is damaged."""
    summary = read_object(folder / _SUMMARY)
    return summary if summary and isinstance(summary.get("status"), str) else None


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a result, none of it damaged."""
    return _summary(folder) is not None and is_whole_parquet(folder / _METRICS)
