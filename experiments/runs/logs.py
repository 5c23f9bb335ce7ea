"""What is kept of a run that ended without a result."""

import json
import re
from pathlib import Path
from typing import Any

from experiments.files import atomic
from experiments.runs.folder import RunFolder

_TAIL = 50  # lines of the log that the summary has


def tail(log: Path) -> list[str]:
    """Return the last lines of a log."""
    return _lines(log)[-_TAIL:]


def error_of(log: Path, since: int = 0) -> str:
    """Return the line in which Python names the error that a program ended in; "" without one."""
    lines = _lines(log, since)
    begins = [index for index, line in enumerate(lines) if "Traceback (most recent" in line]
    after = lines[begins[-1] + 1 :] if begins else []
    return next((line for line in after if not line.startswith(" ")), "")


def last_line(log: Path, since: int = 0) -> str:
    """Return the line of a log that tells why the program ended.

    A killed process prints no traceback; SLURM's own message is used then.

    Args:
        log: the file.
        since: byte from which on this start of the program wrote.
    """
    lines = _lines(log, since)[-_TAIL:]
    of_slurm = re.findall("(?:srun|slurmstepd): error: .*", "\n".join(lines))
    told = [error_of(log, since), *of_slurm, *reversed(lines)]
    return next((line for line in told if line), "it said nothing")


def _lines(log: Path, since: int = 0) -> list[str]:
    """Return the lines of a log that are not empty; of a progress bar what it showed last."""
    try:
        content = log.read_bytes()[since:]
    except OSError:
        return []
    lines = content.decode(errors="replace").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    return [line for line in shown if line]


def record_failure(run: RunFolder, status: str, reason: str, log: Path) -> None:
    """Write summary and metrics of a run that failed, as far as it came.

    Args:
        run: where its files lie.
        status: failed or timeout.
        reason: one line.
        log: what it said; its last lines go into the summary.
    """
    from experiments.runs.metrics import MetricsLog

    frame = MetricsLog(run.training / "metrics.jsonl").frame()
    val_losses = frame["val_loss"].dropna()
    summary: dict[str, Any] = {
        "status": status,
        "steps": int(frame["step"].max()) if len(frame) else 0,
        "tokens": int(frame["tokens"].max()) if len(frame) else 0,
        "final_val_loss": None,
        "best_val_loss": float(val_losses.min()) if len(val_losses) else None,
        "launch": run.launch,
        "reason": reason,
        "log": tail(log),
    }
    with atomic(run.path / "metrics.parquet") as path:
        frame.to_parquet(path, index=False)
    with atomic(run.path / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
