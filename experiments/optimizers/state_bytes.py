"""The memory of an optimizer's state."""

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def state_bytes(optimizer: Any) -> int:
    """Return the bytes of all tensors that the optimizer keeps between steps, counters included.

    Args:
        optimizer: with a mapping `state`, as torch.optim.Optimizer has it.
    """
    return tensor_bytes(optimizer.state)


def tensor_bytes(kept: Any) -> int:
    """Return the bytes of the tensors and arrays in nested dicts, lists, tuples and sets.

    Tensors that share memory count once, also on the meta device. A tensor that is made of others,
    as torchao's are, counts as these; one that is spread over processes counts as a whole.
    """
    views: dict[Any, set[tuple[int, int]]] = defaultdict(set)  # of each piece of memory
    others: dict[int, int] = {}  # bytes by id
    pending = [kept]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            pending += value
        elif isinstance(value, np.ndarray):
            others[id(value)] = value.nbytes
        elif isinstance(value, DTensor):
            others[id(value)] = _whole_bytes(value)
        elif hasattr(value, "__tensor_flatten__"):
            pending += [getattr(value, name) for name in value.__tensor_flatten__()[0]]
        elif isinstance(value, Tensor) and value.layout == torch.sparse_coo:
            pending += [value._indices(), value._values()]
        elif isinstance(value, Tensor) and value.layout == torch.strided:
            views[value.untyped_storage()].add((value.storage_offset(), _face_bytes(value)))
        elif isinstance(value, Tensor):
            others[id(value)] = _face_bytes(value)
    # Views may overlap, but never take more than what they look at.
    in_views = [min(memory.nbytes(), sum(n for _, n in parts)) for memory, parts in views.items()]
    return sum(in_views) + sum(others.values())


def _face_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor by its shape and dtype."""
    return tensor.numel() * tensor.element_size()


def _whole_bytes(tensor: DTensor) -> int:
    """Return the bytes of a tensor's parts in all processes, each copy of a part once."""
    part = tensor.to_local()
    if not part.numel():
        return _face_bytes(tensor)
    return tensor_bytes(part) * tensor.numel() // part.numel()
