"""Measuring a training step: time, memory, and the size of the update."""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from experiments.memory import peak_resident_bytes, reset_peak, resident_bytes
from experiments.training.sharding import full_tensor


def synchronized_time() -> float:
    """Return the time in seconds, once the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class PeakMemory:
    """The most memory that training takes: of the GPU if there is one, else of RAM.

    Of RAM, that which this process had before does not count: Python, its packages, and whatever
    else a fork server has imported. Copies that only the metrics need do not count either.
    """

    def __init__(self) -> None:
        self._peak = 0
        self._excluded = 0
        reset_peak()
        self._before = resident_bytes()

    def update(self) -> int:
        """Return the peak so far, in bytes."""
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() - self._excluded
        else:
            peak = peak_resident_bytes() - self._before
        self._peak = max(self._peak, peak)
        return self._peak

    def exclude(self, size: int) -> None:
        """Do not count `size` bytes of GPU memory from now on; `update` must come first."""
        self._excluded = size
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


class ParameterCopy:
    """A copy of the parameters before an update, which the measured peak memory leaves out.

    On a GPU their size is subtracted. In RAM it could not be, because the system knows only the
    peak of all pages; there they are written to a file, whose pages are not counted: on Linux a
    file in memory (memfd_create), elsewhere a temporary file.

    Args:
        params: the parameters; of a DTensor, each process keeps its own part.
        peak: the peak that must not count the copy.
    """

    def __init__(self, params: Sequence[Tensor], peak: PeakMemory) -> None:
        self._params = params
        self._peak = peak
        self._copies: list[Tensor] = []
        self._file: BinaryIO | None = None
        peak.update()
        if params[0].device.type == "cpu":
            self._file = _memory_file()
            for param in params:
                self._file.write(_bytes_of(_local(param)).numpy())
        else:
            before = torch.cuda.memory_allocated()
            self._copies = [_local(param).clone() for param in params]
            peak.exclude(torch.cuda.memory_allocated() - before)

    def rms_change(self) -> float:
        """Return the root mean square of the change of all parameters, and free the copy."""
        self._peak.update()
        if self._file:
            self._file.seek(0)
        # Added up at once: a list of small tensors would fragment the heap, and so raise the peak.
        total = torch.zeros((), device=self._params[0].device)
        for index in range(len(self._params)):
            total += self._squared_change(index)
        if self._file:
            self._file.close()
        else:
            self._peak.exclude(0)
        return math.sqrt(total.item() / sum(param.numel() for param in self._params))

    def _squared_change(self, index: int) -> Tensor:
        change = self._old_values(index).float().sub_(self._params[index].detach().float())
        return full_tensor(change.square_().sum())

    def _old_values(self, index: int) -> Tensor:
        """Return the old values of a parameter, sharded alike; called once each, in order."""
        param = self._params[index]
        if self._file:
            local = torch.empty_like(_local(param))
            self._file.readinto(_bytes_of(local).numpy())
        else:
            local, self._copies[index] = self._copies[index], torch.empty(0)
        if not isinstance(param, DTensor):
            return local
        return DTensor.from_local(
            local, param.device_mesh, param.placements, shape=param.shape, stride=param.stride()
        )


def _local(param: Tensor) -> Tensor:
    """Return this process's shard of a parameter, detached and contiguous."""
    param = param.detach()
    return (param.to_local() if isinstance(param, DTensor) else param).contiguous()


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor as uint8, shape (bytes,), no copy: NumPy has no bfloat16."""
    return tensor.view(-1).view(torch.uint8)


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("parameters"), "w+b")
    return tempfile.TemporaryFile()
