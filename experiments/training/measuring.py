"""Time, memory and size of an update, as they are measured while a run trains."""

import math
import resource
import sys
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from experiments.training.sharding import whole


def synchronized_time() -> float:
    """Return the time in seconds, once an accelerator has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def rms_difference(params: Iterable[Tensor], before: list[Tensor]) -> float:
    """Return the root mean square of how far parameters moved; NaN where not measured."""
    if not before:
        return math.nan
    squares = [
        whole((new.detach().float() - old.float()).square().sum())
        for new, old in zip(params, before, strict=True)
    ]
    return math.sqrt(sum(squares).item() / sum(old.numel() for old in before))


def peak_memory_bytes() -> int:
    """Return the most memory this process held: on the accelerator if there is one, else in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB, macOS bytes
