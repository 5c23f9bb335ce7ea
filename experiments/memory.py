"""The optimizer state of every model at its published size, counted without memory for it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from experiments.config import Layout, Profile, load_profile
from experiments.files import atomic
from experiments.grid import OptimizerSpec, optimizer_spec
from experiments.models import build_model
from experiments.optimizers import build_optimizer, tensor_bytes

MIB = 2**20


def write_memory(path: Path) -> None:
    """Write a row for each model of the profile `paper` and each optimizer of the registry.

    Columns: model, family, parameters, routed_expert_parameters, optimizer, label, state_bytes,
    state_bytes_routed_experts, devices, tp, pp, ep (table 3 of arXiv:2605.10335), and three
    readings of the MiB (2**20 bytes) a device: mib_per_device, the whole state spread over all
    devices; mib_per_device_as_paper, which leaves out all but the routed experts of a mixture, as
    table 1 does; mib_per_device_replicated, where tensor, pipeline and expert parallelism alone
    split it.
    """
    rows = pd.DataFrame(_rows(load_profile("paper")))
    with atomic(path) as file:
        rows.to_csv(file, index=False)


def _rows(profile: Profile) -> Iterator[dict[str, Any]]:
    for name, own in profile.by_model.items():
        settings = profile.models[name]
        with torch.device("meta"):
            model = build_model(settings)
        sizes = {key: param.numel() for key, param in model.named_parameters()}
        for optimizer, entry in profile.optimizers.items():
            state = count_state(optimizer_spec(optimizer, entry, settings), model)
            total, routed = sum(state.values()), _routed(state)
            counted_there = routed or total
            yield {
                "model": name,
                "family": settings.family,
                "parameters": sum(sizes.values()),
                "routed_expert_parameters": _routed(sizes),
                "optimizer": optimizer,
                "label": entry.label,
                "state_bytes": total,
                "state_bytes_routed_experts": routed,
                **own.layout.model_dump(),
                "mib_per_device": total / own.layout.devices / MIB,
                "mib_per_device_as_paper": counted_there / own.layout.devices / MIB,
                "mib_per_device_replicated": _replicated(total, routed, own.layout) / MIB,
            }


def count_state(spec: OptimizerSpec, model: nn.Module) -> dict[str, int]:
    """Return the bytes of an optimizer's state after a step, by the name of the parameter.

    The blocks of a model are alike, so the optimizer steps on the parameters of one of each kind.

    Args:
        spec: the optimizer.
        model: on the meta device.
    """
    first_of_kind = {}
    for name, param in model.named_parameters():
        first = first_of_kind.setdefault(_kind(name, param), param)
        param.grad = torch.empty_like(param) if param is first else None
    optimizer = build_optimizer(spec, model, lr=1e-3, weight_decay=0.1)
    optimizer.step()
    return {
        name: tensor_bytes(optimizer.state[first_of_kind[_kind(name, param)]])
        for name, param in model.named_parameters()
    }


def _kind(name: str, param: nn.Parameter) -> tuple[str, torch.Size]:
    """Return what parameters have in common that stand in the same place of several blocks."""
    return re.sub(r"\d+", "", name), param.shape


def _routed(by_name: dict[str, int]) -> int:
    """Return the part of the routed experts."""
    return sum(value for name, value in by_name.items() if ".experts." in name)


def _replicated(total: int, routed: int, layout: Layout) -> float:
    """Return the bytes a device where data-parallel copies of the model each hold their state."""
    split = layout.tp * layout.pp
    return (total - routed) / split + routed / (split * layout.ep)
