"""The memory of a process: its pages in RAM, and how glibc keeps them. Imports no torch."""

import resource
import sys
from pathlib import Path

import psutil

# Environment variables that a process reads when it starts:
# https://man7.org/linux/man-pages/man3/mallopt.3.html
# By default glibc returns large tensors to the system after every step, and a small model spends
# much of its time allocating them again.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
# By default it keeps freed tensors below 32 MiB for later ones, and how many depends on their
# order. With this, the peak counts tensors that are in use.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes."""
    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """Return the most resident memory since the start or `reset_peak`, in bytes.

    On Linux it is VmHWM, because ru_maxrss may be the peak of the process that started this one:
    exec_mmap in https://github.com/torvalds/linux/blob/master/fs/exec.c keeps it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, else KiB
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def reset_peak() -> bool:
    """Let the peak begin anew; return whether the system can, as Linux does.

    https://docs.kernel.org/filesystems/proc.html
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
