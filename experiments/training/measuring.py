"""Measuring a training step: time, memory, and the size of the update."""

import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import BinaryIO

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from experiments.training.sharding import whole


def synchronized_time() -> float:
    """Return the time in seconds, after the accelerator has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory_bytes() -> int:
    """Return the most memory this process has used: of the GPU if there is one, else of RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux, bytes on macOS


class ParameterCopy:
    """The values of parameters before an update, kept out of the memory that is measured.

    On an accelerator they are moved to the host. On a CPU they are written to a file, whose pages
    are not part of the process's resident memory: on Linux a file in memory (memfd_create),
    elsewhere a temporary file.

    Args:
        params: the parameters; of a DTensor, each process keeps its own part.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params = params
        self._file: BinaryIO | None = None
        self._on_host: list[Tensor] = []
        if any(param.device.type == "cpu" for param in params):
            self._file = _memory_file()
            for param in params:
                self._file.write(_bytes_of(_local(param)).numpy())
        else:
            self._on_host = [_local(param).cpu() for param in params]

    def rms_change(self) -> float:
        """Return the root mean square of the change of all parameters, and free the copy."""
        if self._file:
            self._file.seek(0)
        squares = []
        for index, param in enumerate(self._params):
            change = self._take(index).float().sub_(param.detach().float())
            squares.append(whole(change.square_().sum()))
        if self._file:
            self._file.close()
        return math.sqrt(sum(squares).item() / sum(param.numel() for param in self._params))

    def _take(self, index: int) -> Tensor:
        """Return the old values of a parameter, sharded as it is; called in order."""
        param = self._params[index]
        local = torch.empty_like(_local(param))
        if self._file:
            self._file.readinto(_bytes_of(local).numpy())
        else:
            local.copy_(self._on_host[index])
            self._on_host[index] = torch.empty(0)
        if not isinstance(param, DTensor):
            return local
        return DTensor.from_local(
            local, param.device_mesh, param.placements, shape=param.shape, stride=param.stride()
        )


def _local(param: Tensor) -> Tensor:
    """Return the values of a parameter that this process holds."""
    param = param.detach()
    return (param.to_local() if isinstance(param, DTensor) else param).contiguous()


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor as bytes, shape (n,), without a copy; NumPy has no bfloat16."""
    return tensor.view(-1).view(torch.uint8)


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("parameters"), "w+b")
    return tempfile.TemporaryFile()
