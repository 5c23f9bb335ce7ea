"""The summary of a run: its status, and its measurements in a few numbers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from experiments.files import atomic, read_object
from experiments.runs.logs import tail
from experiments.runs.metrics import Row

SUMMARY_FILE = "summary.json"
_BATCH_NOISE = 0.1  # nats by which the first batch's loss may be below that of other text
_SPIKE = 0.1  # nats above the lowest loss so far from which a validation is a spike


class Status(StrEnum):
    """How a run ended; a run without a summary has not ended."""

    COMPLETED = "completed"
    DIVERGED = "diverged"  # a loss was not finite, or the last one was above the first
    FAILED = "failed"  # an error, a killed process, a lost job
    TIMEOUT = "timeout"  # the time limit of its job, after the last permitted attempt


ENDED = (Status.COMPLETED, Status.DIVERGED)  # the statuses of a run with a result


class Launch(TypedDict):
    """The starts of a run's training process."""

    attempts: int
    job: str | None  # SLURM's id of the last job; None on this machine


class Measurements(TypedDict, total=False):
    """The single numbers of a summary. A failed run has only those before `parameters`.

    All losses are in nats per token.
    """

    status: str
    steps: int  # optimizer steps taken
    tokens: int  # tokens trained on
    final_val_loss: float | None  # on the whole validation stream; None if diverged or failed
    final_val_error: float | None  # its standard error over blocks of windows
    best_val_loss: float | None  # lowest value of the validation curve
    last_val_loss: float | None  # last value of the curve; None if not finite
    spikes: int  # times that the curve rose above its lowest value so far + 0.1
    largest_spike: float | None  # largest rise above the lowest value so far; None if not finite
    rise: float | None  # last_val_loss - best_val_loss
    parameters: int
    state_bytes: int  # size of the optimizer state, step counters included
    peak_memory_bytes: int  # that training takes, largest over all processes; of the GPU, or RAM
    tokens_per_second: float  # median over the logged steps
    optimizer_seconds: float  # median time of the update, in seconds


class Summary(Measurements, total=False):
    """The keys of summary.json. A failed run has a reason and a log."""

    corpus: dict[str, Any]  # name, text_sha256, as_recorded
    provenance: dict[str, Any]  # experiments.runs.provenance
    launch: Launch
    restored_from: str  # folder of the bundle that the run was restored from, if it was
    reason: str  # why the run failed, one line
    log: list[str]  # the last lines of a failed run's log


@dataclass(frozen=True)
class Failure:
    """Why a run ended without a result.

    Args:
        status: FAILED or TIMEOUT.
        reason: one line.
        log: the log of the process that failed.
    """

    status: Status
    reason: str
    log: Path


def training_summary(rows: Sequence[Row], tokens_per_step: int, measured: Summary) -> Summary:
    """Return the summary of a run whose training has ended.

    The run diverged if a loss was not finite, or if the last loss of the validation curve is above
    the first training loss: the model has unlearned what it learned.

    Args:
        rows: the logged metrics, at least one.
        tokens_per_step: batch_size times context.
        measured: further keys of the summary, which follow the losses.
    """
    first, last = rows[0], rows[-1]
    final, error = last.get("final_val_loss"), last.get("final_val_error")
    has_risen = not last.get("val_loss", math.nan) <= first["train_loss"] + _BATCH_NOISE
    diverged = has_risen or _finite(final) is None
    return {
        "status": Status.DIVERGED if diverged else Status.COMPLETED,
        "steps": last["step"],
        "tokens": last["tokens"],
        "final_val_loss": None if diverged else final,
        "final_val_error": None if diverged else _finite(error),
        **_of_curve(rows),
        **measured,
        "tokens_per_second": tokens_per_step / median(row["step_seconds"] for row in rows),
        "optimizer_seconds": median(row["optimizer_seconds"] for row in rows),
    }


def failure_summary(failure: Failure, rows: Sequence[Row], launch: Launch) -> Summary:
    """Return the summary of a run that failed, with the metrics it logged until then."""
    return {
        "status": failure.status,
        "steps": rows[-1]["step"] if rows else 0,
        "tokens": rows[-1]["tokens"] if rows else 0,
        "final_val_loss": None,
        "final_val_error": None,
        **_of_curve(rows),
        "launch": launch,
        "reason": failure.reason,
        "log": tail(failure.log),
    }


def read_summary(folder: Path) -> Summary | None:
    """Return the summary in a folder; None if there is none or it is damaged."""
    summary = read_object(folder / SUMMARY_FILE)
    return summary if summary and isinstance(summary.get("status"), str) else None


def write_summary(folder: Path, summary: Summary) -> None:
    """Write the summary of a run.

    Raises:
        FileError: it cannot be written.
    """
    with atomic(folder / SUMMARY_FILE) as path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _of_curve(rows: Sequence[Row]) -> Measurements:
    """Return the measurements of the validation curve; a loss that is not finite is infinite."""
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
    lowest = [*accumulate(losses, min)]
    heights = [
        loss - low if math.isfinite(loss) else math.inf
        for loss, low in zip(losses, lowest, strict=True)
    ]
    best, last = (_finite(values[-1] if values else None) for values in (lowest, losses))
    return {
        "best_val_loss": best,
        "last_val_loss": last,
        "spikes": sum(low <= _SPIKE < high for low, high in pairwise([0.0, *heights])),
        "largest_spike": _finite(max(heights, default=None)),
        "rise": None if best is None or last is None else last - best,
    }


def _finite(value: float | None) -> float | None:
    """Return a number that JSON can store; None for NaN, infinity and None."""
    return value if value is not None and math.isfinite(value) else None
