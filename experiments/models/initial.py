"""Initial weights as a function of the seed and the names of the parameters."""

import hashlib

import torch
from torch import Tensor, nn


def materialise(
    model: nn.Module, seed: int, device: torch.device | str = "cpu", part: str = ""
) -> None:
    """Give parameters and buffers on the meta device memory and their initial values, in place.

    A value depends on the seed, on the parameter's name and on its shape, but not on the device nor
    on other parameters. So a model may be made part by part.

    Args:
        model: a model of `experiments.models`.
        seed: the seed.
        device: the device of the weights.
        part: name of a submodule, followed by a dot; only what is below it is made.
    """
    for name, param in [*model.named_parameters()]:
        if param.is_meta and name.startswith(part):
            value = _drawn(param, seed, name, model.initial_std(name)).to(device)
            owner, _, key = name.rpartition(".")
            setattr(model.get_submodule(owner), key, nn.Parameter(value))
    for name, module in model.named_modules():
        if f"{name}.".startswith(part) and any(b.is_meta for b in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
            model.fill_buffers(module)
    model.tie_weights()


def _drawn(param: Tensor, seed: int, name: str, std: float | None) -> Tensor:
    """Return normal numbers, or ones if `std` is None, on the CPU."""
    if std is None:
        return torch.ones(param.shape, dtype=param.dtype)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.empty(param.shape, dtype=param.dtype).normal_(std=std, generator=generator)
