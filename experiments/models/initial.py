"""Initial weights as a function of the seed and the names of the parameters."""

import hashlib
from math import ceil, prod

import numpy as np
import torch
from torch import Tensor, nn

from powerstep.dtensors import is_dtensor, local

_BLOCK = 2**20  # numbers that are drawn at a time; 4 MiB


def materialise(model: nn.Module, seed: int, device: torch.device | str = "cpu") -> None:
    """Give a model on the meta device memory and its initial values, in place.

    A value depends on the seed, on the parameter's name and on its shape, but neither on the device
    nor on the number of processes. If the model is sharded, each process draws its own shards.

    Args:
        model: a model of `experiments.models`, in fp32.
        seed: the seed.
        device: the device of the weights.
    """
    model.to_empty(device=device)
    model.tie_weights()  # to_empty gave each module its own tensor
    for module in model.modules():
        if [*module.buffers(recurse=False)]:
            model.fill_buffers(module)
    for name, param in model.named_parameters():
        _fill(param, f"{seed}/{name}", model.initial_std(name))


@torch.no_grad()
def _fill(param: Tensor, key: str, std: float | None) -> None:
    """Fill this process's part of a parameter with normal numbers, or with ones if `std` is None.

    The numbers are drawn in blocks of whole rows, each with a generator of its own. A process draws
    only the blocks that its part has rows of.
    """
    part, first = local(param), _first(param)
    if std is None:
        part.fill_(1)
        return
    size = max(1, _BLOCK // prod(param.shape[1:]))  # rows of a block
    start, stop = first[0], first[0] + part.shape[0]
    columns = tuple(slice(at, at + n) for at, n in zip(first[1:], part.shape[1:], strict=True))
    for block in range(start // size, ceil(stop / size)):
        top, bottom = block * size, min((block + 1) * size, param.shape[0])
        drawn = std * _normal(f"{key}/{block}", (bottom - top, *param.shape[1:]))
        own = slice(max(start, top), min(stop, bottom))
        rows = slice(own.start - top, own.stop - top)
        part[own.start - start : own.stop - start] = drawn[(rows, *columns)]


def _first(param: Tensor) -> tuple[int, ...]:
    """Return the index in a parameter at which this process's part begins."""
    if not is_dtensor(param):
        return (0,) * param.ndim
    # Imported here because it takes half a second, which a check of the optimizers does not need.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = param.device_mesh, param.placements
    return compute_local_shape_and_global_offset(param.shape, mesh, placements)[1]


def _normal(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return normal numbers in fp32, a function of the key; torch's generators have 2³² seeds."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
