"""Size of an optimizer's state in memory."""

from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def state_bytes(optimizer: Any) -> int:
    """Return the size of an optimizer's state in bytes, step counters included.

    Args:
        optimizer: any object with a mapping `state`, such as a torch.optim.Optimizer.
    """
    return tensor_bytes(optimizer.state)


def tensor_bytes(kept: Any) -> int:
    """Return the size of all tensors and arrays in nested dicts, lists, tuples and sets, in bytes.

    Tensors that share memory count once, also on the meta device. A tensor subclass that wraps
    other tensors, as in torchao (https://pytorch.org/docs/stable/notes/extending.html), counts as
    these, and any other object, as in FlashOptim, as its attributes. A DTensor counts as the whole
    tensor, over all processes.
    """
    views: dict[Any, set[tuple[int, int]]] = defaultdict(set)  # (offset, bytes) by storage
    others: dict[int, int] = {}  # bytes by id() of the tensor or array
    objects: dict[int, Any] = {}  # followed already, by id()
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
        elif hasattr(value, "__dict__") and not callable(value) and id(value) not in objects:
            objects[id(value)] = value
            pending += vars(value).values()
    # The views of a storage may overlap, but together they are never larger than the storage.
    in_views = [min(memory.nbytes(), sum(n for _, n in parts)) for memory, parts in views.items()]
    return sum(in_views) + sum(others.values())


def _face_bytes(tensor: Tensor) -> int:
    """Return the size of a tensor by its shape and dtype, in bytes."""
    return tensor.numel() * tensor.element_size()


def _whole_bytes(tensor: DTensor) -> int:
    """Return the size of a DTensor over all processes, in bytes; replicas count once."""
    part = tensor.to_local()
    if not part.numel():
        return _face_bytes(tensor)
    return tensor_bytes(part) * tensor.numel() // part.numel()
