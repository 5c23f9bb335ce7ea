"""The device that a study measures on: its memory and its speed."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from experiments.memory import peak_resident_bytes, resident_bytes

_MATRIX = 4096  # rows and columns of the matrices whose product measures the speed
_PRODUCTS = 5  # timed products
_COPIED, _COPIES = 2**26, 9  # numbers in fp32, 256 MiB, which no cache holds; timed copies


def accelerator_or_cpu() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(step: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Return the time of a call in seconds, until the device has finished its work.

    Args:
        step: the call.
        device: the device that it works on.
        times: number of calls in a row; the result is their mean.
    """
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def call_seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Return the time in seconds until a call returns; the device may work on."""
    _synchronize(device)
    start = time.perf_counter()
    step()
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


def copy_speed(device: torch.device) -> float:
    """Return the median speed of copying a large tensor, in bytes read and written per second."""
    source = torch.ones(_COPIED, device=device)
    target = torch.empty_like(source)
    target.copy_(source)  # takes the memory
    times = [seconds(lambda: target.copy_(source), device) for _ in range(_COPIES)]
    return 2 * source.nbytes / statistics.median(times)


def available_bytes(device: torch.device) -> int:
    """Return the memory that a process can still take without swapping, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def used_bytes(device: torch.device) -> int:
    """Return the memory that this process uses now: tensors on a GPU, else all of its RAM."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_bytes()


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has used: tensors on a GPU, else all of its RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
