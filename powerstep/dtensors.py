"""Shards of DTensors. A tensor that is not a DTensor counts as one shard."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """Tell DTensors from other tensors without importing torch.distributed."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return the shard of a DTensor that this process holds; another tensor as it is."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def local_grad(param: Tensor) -> Tensor:
    """Return this process's shard of the gradient, laid out as its shard of the parameter."""
    grad = param.grad
    if is_dtensor(grad) and grad.placements != param.placements:
        grad = grad.redistribute(placements=param.placements)  # tensor parallel may leave a Partial
    return local(grad)


def shard_counts(param: Tensor) -> list[int]:
    """Count the shards of each dimension; 1 each of a tensor that is not a DTensor."""
    counts = [1] * param.ndim
    if is_dtensor(param):
        for size, placement in zip(param.device_mesh.shape, param.placements, strict=True):
            dim = getattr(placement, "dim", None)  # _StridedShard has one, but is_shard() is False
            if dim is not None:
                counts[dim] *= size
    return counts


def placements_like(param: Tensor, ndim: int) -> list[Any]:
    """Return the placements of a tensor of `ndim` dimensions that is sharded as `param` is."""
    from torch.distributed.tensor import Shard

    return [  # of a flat part, what would be sharded otherwise is sharded over one process
        Shard(0) if getattr(placement, "dim", 0) >= ndim else placement
        for placement in param.placements
    ]


def distribute(own: Tensor, param: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a DTensor of `shape` from each process's part, placed as `param` is."""
    from torch.distributed.tensor import DTensor

    placements = placements_like(param, len(shape))
    stride = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    return DTensor.from_local(
        own, param.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
