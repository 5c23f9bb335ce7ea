"""Finding in a log why a process ended."""

import re
from pathlib import Path

_TAIL = 50  # lines of a log that are kept in the summary of a failed run


def tail(log: Path) -> list[str]:
    """Return the last lines of a log."""
    return _lines(log)[-_TAIL:]


def error_of(log: Path, since: int = 0) -> str:
    """Return the error at the end of the last Python traceback in a log; "" without one."""
    lines = _lines(log, since)
    begins = [index for index, line in enumerate(lines) if "Traceback (most recent" in line]
    after = lines[begins[-1] + 1 :] if begins else []
    return next((line for line in after if not line.startswith(" ")), "")


def last_line(log: Path, since: int = 0) -> str:
    """Return the line of a log that says why the process ended.

    A killed process prints no traceback; SLURM's own message is used then.

    Args:
        log: the file.
        since: size of the file, in bytes, when the process started.
    """
    lines = _lines(log, since)[-_TAIL:]
    of_slurm = re.findall("(?:srun|slurmstepd): error: .*", "\n".join(lines))
    candidates = [error_of(log, since), *of_slurm, *reversed(lines)]
    return next((line for line in candidates if line), "it printed nothing")


def _lines(log: Path, since: int = 0) -> list[str]:
    """Return the lines of a log that are not empty; of a progress bar, its last state."""
    try:
        content = log.read_bytes()[since:]
    except OSError:
        return []
    lines = content.decode(errors="replace").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
    return [line for line in shown if line]
