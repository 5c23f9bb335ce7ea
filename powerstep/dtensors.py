"""Shards of DTensors. Every other tensor counts as a single shard."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_PLAIN = (Tensor, Parameter)  # tested first: hasattr is slow if there is no such attribute


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor, without importing torch.distributed."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor; any other tensor unchanged."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def local_grad(param: Tensor) -> Tensor:
    """Return this process's shard of the gradient, with the placements of the parameter."""
    grad = param.grad
    if not is_dtensor(grad):
        return grad
    if grad.placements != param.placements:
        grad = grad.redistribute(placements=param.placements)  # tensor parallelism may give Partial
    return grad.to_local()


def shard_counts(param: Tensor) -> list[int]:
    """Return the number of shards of a DTensor along each dimension."""
    counts = [1] * param.ndim
    for size, placement in zip(param.device_mesh.shape, param.placements, strict=True):
        dim = getattr(placement, "dim", None)  # _StridedShard has one, but is_shard() is False
        if dim is not None:
            counts[dim] *= size
    return counts


def placements_like(param: Tensor, ndim: int) -> list[Any]:
    """Return the placements of `param` for a tensor of `ndim` dimensions."""
    from torch.distributed.tensor import Shard

    # If a part is flat, the mesh dimensions that shard its other dimensions have a single process.
    return [
        Shard(0) if getattr(placement, "dim", 0) >= ndim else placement
        for placement in param.placements
    ]


def distribute(own: Tensor, param: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a DTensor of global `shape` from local tensors, with the placements of `param`."""
    from torch.distributed.tensor import DTensor

    placements = placements_like(param, len(shape))
    stride = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    return DTensor.from_local(
        own, param.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
