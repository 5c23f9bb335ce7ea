"""Gradients that are the same each time that they are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms only; an operation that has none raises an error.

    Elsewhere training only warns of such an operation, because an optimizer may need one. But in
    that mode the attention on a GPU takes a non-deterministic algorithm although it has another:
    https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/transformers/cuda/attention_backward.cu
    """
    is_enabled = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_enabled, warn_only=only_warns)
