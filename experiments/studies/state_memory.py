"""The size of the optimizer state of every full-size model, counted on the meta device."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from experiments.files import atomic
from experiments.models.build import model_on_meta
from experiments.models.settings import ModelSettings
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.settings import OptimizerSettings, OptimizerSpec, optimizer_spec
from experiments.optimizers.state_bytes import tensor_bytes
from experiments.optimizers.user_code import errors_explained
from experiments.plan.profile import Layout, Profile
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError

MIB = 2**20  # bytes in a MiB


def write_memory(path: Path) -> None:
    """Write a row for each model of the profile `paper` and each optimizer of the registry.

    Columns: model, family, parameters, routed_expert_parameters, optimizer, label, state_bytes,
    state_bytes_routed_experts, devices, tp, pp, ep (table 3 of arXiv:2605.10335), reason, and MiB
    (2**20 bytes) per device, counted in three ways:

    - mib_per_device: the whole state is sharded over all devices.
    - mib_per_device_as_paper: of a mixture of experts only the routed experts are counted, as in
      table 1.
    - mib_per_device_replicated: only tensor, pipeline and expert parallelism split the state.

    If an optimizer's state cannot be counted, the counts are missing and `reason` says why.
    """
    rows = pd.DataFrame(_rows(load_profile("paper")))
    with atomic(path) as file:
        rows.to_csv(file, index=False)


def _rows(profile: Profile) -> Iterator[dict[str, Any]]:
    for name, own in profile.by_model.items():
        settings = profile.models[name]
        model = model_on_meta(settings)
        sizes = {key: param.numel() for key, param in model.named_parameters()}
        for optimizer, entry in profile.optimizers.items():
            if entry.extra:  # the counts must not depend on what else is installed
                continue
            state = _count(optimizer, entry, settings, model)
            total, routed = sum(state.values()), _routed(state)
            counted_by_paper = routed or total
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
                "mib_per_device_as_paper": counted_by_paper / own.layout.devices / MIB,
                "mib_per_device_replicated": _replicated(total, routed, own.layout) / MIB,
                "reason": state.reason,
            }


class StateCount(dict[str, float]):
    """Bytes of optimizer state by parameter name; NaN if they cannot be counted.

    Args:
        counts: the bytes, by parameter name.
        reason: why the bytes cannot be counted; empty if they can.
    """

    def __init__(self, counts: dict[str, float], reason: str = "") -> None:
        super().__init__(counts)
        self.reason = reason


def count_state(spec: OptimizerSpec, model: nn.Module) -> StateCount:
    """Return the bytes of an optimizer's state after one step, by parameter name.

    The blocks of a model are alike, so the optimizer steps only on the first of the parameters that
    differ in nothing but their block. State that belongs to no parameter is counted under its own
    key. A step that reads values cannot be counted, because the meta device holds none.

    Args:
        spec: the optimizer.
        model: the model, on the meta device.
    """
    first_of_kind = {}
    for name, param in model.named_parameters():
        first = first_of_kind.setdefault(_kind(name, param), param)
        param.grad = torch.empty_like(param) if param is first else None
    try:
        optimizer = build_optimizer(spec, model, lr=1e-3, weight_decay=0.0)
        classes = " and ".join(spec.classes)
        with errors_explained((), f"{classes} cannot step without memory", *spec.classes):
            optimizer.step()
    except ConfigError as error:
        return _not_counted(model, error)
    counts = {
        name: tensor_bytes(optimizer.state.get(first_of_kind[_kind(name, param)]))
        for name, param in model.named_parameters()
    }
    shared = {key: kept for key, kept in optimizer.state.items() if not isinstance(key, Tensor)}
    return StateCount(counts | {str(key): tensor_bytes(kept) for key, kept in shared.items()})


def _count(
    name: str, entry: OptimizerSettings, settings: ModelSettings, model: nn.Module
) -> StateCount:
    """Count the state of an entry of optimizers.yaml for one model."""
    try:
        return count_state(optimizer_spec(name, entry, settings), model)
    except ConfigError as error:  # an argument refers to a size that the model lacks
        return _not_counted(model, error)


def _not_counted(model: nn.Module, error: ConfigError) -> StateCount:
    """Return NaN for every parameter, with the error as the reason."""
    return StateCount(dict.fromkeys(dict(model.named_parameters()), math.nan), str(error))


def _kind(name: str, param: nn.Parameter) -> tuple[str, torch.Size]:
    """Return a parameter's name without numbers, and its shape: the same in every block."""
    return re.sub(r"\d+", "", name), param.shape


def _routed(by_name: dict[str, float]) -> float:
    """Return the sum over the parameters of the routed experts."""
    return sum(value for name, value in by_name.items() if ".experts." in name)


def _replicated(total: float, routed: float, layout: Layout) -> float:
    """Return the bytes per device if every data-parallel copy of the model has its own state."""
    split = layout.tp * layout.pp
    return (total - routed) / split + routed / (split * layout.ep)
