"""The device that a study measures on: its memory and its speed."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

_MATRIX = 4096  # rows and columns of the matrices whose product measures the speed
_PRODUCTS = 5  # timed products


def accelerator_or_cpu() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Return the time that a call takes in seconds, until the device has finished its work."""
    _synchronize(device)
    start = time.perf_counter()
    step()
    _synchronize(device)
    return time.perf_counter() - start


def gflops(device: torch.device) -> float:
    """Return the median speed of a large matrix product, in 1e9 operations per second.

    The factors are fp32 on a CPU. On a GPU they are bf16, in which language models train there.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    factor = torch.randn(_MATRIX, _MATRIX, device=device, dtype=dtype)
    product = torch.empty_like(factor)

    def multiply() -> None:
        torch.mm(factor, factor, out=product)

    multiply()  # the first one also starts threads and loads kernels
    times = [seconds(multiply, device) for _ in range(_PRODUCTS)]
    return 2 * _MATRIX**3 / statistics.median(times) / 1e9


def available_bytes(device: torch.device) -> int:
    """Return the memory that a process can still take without swapping, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def used_bytes(device: torch.device) -> int:
    """Return the memory that this process uses now: tensors on a GPU, else all of its RAM."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has used: tensors on a GPU, else all of its RAM.

    On Linux it is VmHWM, because ru_maxrss may be the peak of the process that started this one:
    exec_mmap in https://github.com/torvalds/linux/blob/master/fs/exec.c keeps it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return status_bytes("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, else KiB


def status_bytes(field: str) -> int:
    """Return a field of /proc/self/status, such as VmHWM, in bytes.

    Raises:
        OSError: the system has no such file, or the file has no such field.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
