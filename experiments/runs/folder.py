"""The folders and files of a run."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from experiments.files import atomic, is_locked, is_whole_parquet, set_aside
from experiments.runs.effective_steps import FILES
from experiments.runs.history import History
from experiments.runs.metrics import METRICS_FILE, MetricsLog, write_parquet
from experiments.runs.summary import (
    ENDED,
    SUMMARY_FILE,
    Failure,
    Launch,
    Status,
    Summary,
    failure_summary,
    read_summary,
    write_summary,
)


@dataclass(frozen=True)
class TrainingFolder:
    """The files of a run's training process: metrics, checkpoint and result."""

    path: Path

    @property
    def lock(self) -> Path:
        """Locked by the process that trains the run."""
        return self.path / "lock"

    @property
    def spec(self) -> Path:
        """The RunSpec, as JSON."""
        return self.path / "spec.json"

    @property
    def metrics_log(self) -> Path:
        """The metrics logged so far, as lines of JSON."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, from which the run is resumed."""
        return self.path / "last.ckpt"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard logs."""
        return self.path / "tensorboard"

    @property
    def run(self) -> "RunFolder":
        """The run that is trained here."""
        return RunFolder(self.path.parent)

    @property
    def has_result(self) -> bool:
        """Whether training has ended, completed or diverged, and its result is undamaged."""
        return _has_result(self.path)

    def write_result(self, summary: Summary, metrics: MetricsLog) -> None:
        """Write the result of a run that completed or diverged."""
        write_parquet(self.path / METRICS_FILE, metrics.rows)
        write_summary(self.path, summary)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: its result, and below it the files of training and of SLURM.

    Snakemake deletes summary.json and metrics.parquet before it runs a job again. Training
    therefore writes them to `training`, and they are copied here at the end.
    """

    path: Path

    @property
    def summary_file(self) -> Path:
        """The summary of the run, as JSON."""
        return self.path / SUMMARY_FILE

    @property
    def metrics_file(self) -> Path:
        """The metrics of all logged steps, as parquet; an empty file if the run failed."""
        return self.path / METRICS_FILE

    @property
    def launch_log(self) -> Path:
        """Output of the launcher."""
        return self.path / "launch.log"

    @property
    def train_log(self) -> Path:
        """Output of a training process that the launcher started on this machine."""
        return self.path / "train.log"

    @property
    def launcher_lock(self) -> Path:
        """Locked by the launcher of the run while it lives."""
        return self.path / "launcher.lock"

    @property
    def training(self) -> TrainingFolder:
        """Folder of the training process."""
        return TrainingFolder(self.path / "training")

    @property
    def slurm(self) -> Path:
        """Folder of the run's SLURM jobs: scripts and logs."""
        return self.path / "slurm"

    @property
    def history(self) -> History:
        """The events of the run so far."""
        return History(self.path / "history.jsonl")

    @property
    def last_sign_of_life(self) -> float:
        """Time of the last logged step, in seconds as time.time(); 0 before the first."""
        log = self.training.metrics_log
        return log.stat().st_mtime if log.exists() else 0.0

    @property
    def has_launcher(self) -> bool:
        """Whether a launcher of the run is alive on this machine or file system."""
        return is_locked(self.launcher_lock)

    @property
    def failures(self) -> int:
        """Number of failures so far."""
        return len(self.history.events("failed"))

    @property
    def summary(self) -> Summary:
        """The summary; empty if there is none or it is damaged."""
        return read_summary(self.path) or Summary()

    @property
    def launch(self) -> Launch:
        """Number of starts of training, and the job of the last one."""
        starts = self.history.events("started")
        return {"attempts": len(starts), "job": starts[-1].get("job") if starts else None}

    @property
    def damaged(self) -> list[Path]:
        """The damaged files of the result. Only both ends of metrics.parquet are read."""
        summary, metrics = self.summary_file, self.metrics_file
        found = [summary] if summary.exists() and not read_summary(self.path) else []
        has_failed = self.summary.get("status") in (Status.FAILED, Status.TIMEOUT)
        is_damaged = metrics.exists() and not has_failed and not is_whole_parquet(metrics)
        return found + ([metrics] if is_damaged else [])

    @property
    def final_loss(self) -> float:
        """The final validation loss, nats per token; inf if diverged, NaN without a result."""
        if not self.is_done:
            return math.nan
        loss = self.summary["final_val_loss"]
        return math.inf if loss is None else loss

    def set_aside_damaged(self) -> list[Path]:
        """Rename the damaged files of the result, so that it is made again; return their paths."""
        damaged = self.damaged
        for path in damaged:
            set_aside(path)
        return damaged

    @property
    def is_done(self) -> bool:
        """Whether the run completed or diverged and its result is undamaged: no need to train."""
        return self.summary.get("status") in ENDED and _has_result(self.path)

    def publish(self) -> Summary:
        """Copy the result of training here, and add the launches; return the summary."""
        summary = read_summary(self.training.path) | {"launch": self.launch}
        with atomic(self.metrics_file) as path:
            shutil.copyfile(self.training.path / METRICS_FILE, path)
        for name in FILES:
            if (self.training.path / name).exists():
                with atomic(self.path / name) as path:
                    shutil.copyfile(self.training.path / name, path)
        write_summary(self.path, summary)
        return summary

    def record_failure(self, failure: Failure) -> Summary:
        """Write the result of a run that failed: how far it came, and why it failed.

        Its metrics stay in training/metrics.jsonl. metrics.parquet, which Snakemake expects, is an
        empty file: a library that writes parquet takes 100 MB, too much for many launchers at once.
        """
        rows = MetricsLog(self.training.metrics_log).rows
        summary = failure_summary(failure, rows, self.launch)
        with atomic(self.metrics_file):
            pass
        write_summary(self.path, summary)
        return summary


@dataclass(frozen=True)
class ResultsFolder:
    """The folder `results/`, in which all profiles share runs, corpora and studies."""

    path: Path = Path("results")

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run by its RunSpec.path, model/optimizer/run."""
        return RunFolder(self.path / "runs" / name)

    @property
    def corpora(self) -> Path:
        """Folder of the tokenised corpora."""
        return self.path / "corpora"

    @property
    def slurm_queue(self) -> Path:
        """The last snapshot of SLURM's queue, shared by all launchers."""
        return self.path / "logs" / "slurm_queue.json"


def _has_result(folder: Path) -> bool:
    return read_summary(folder) is not None and is_whole_parquet(folder / METRICS_FILE)
