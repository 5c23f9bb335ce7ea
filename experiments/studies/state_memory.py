"""The optimizer state of every model at its published size, counted without memory for it."""

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
from experiments.optimizers.user_code import errors_told
from experiments.plan.profile import Layout, Profile
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError

MIB = 2**20


def write_memory(path: Path) -> None:
    """Write a row for each model of the profile `paper` and each optimizer of the registry.

    Columns: model, family, parameters, routed_expert_parameters, optimizer, label, state_bytes,
    state_bytes_routed_experts, devices, tp, pp, ep (table 3 of arXiv:2605.10335), and three
    readings of the MiB (2**20 bytes) a device: mib_per_device, the whole state spread over all
    devices; mib_per_device_as_paper, which leaves out all but the routed experts of a mixture, as
    table 1 does; mib_per_device_replicated, where tensor, pipeline and expert parallelism alone
    split it. Where an optimizer cannot be counted these are missing, and `reason` says why.
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
            state = _count(optimizer, entry, settings, model)
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
                "reason": state.reason,
            }


class StateCount(dict[str, float]):
    """Bytes of state by the name of the parameter; NaN where they cannot be counted.

    Args:
        reason: why they cannot; empty where they can.
    """

    def __init__(self, counts: dict[str, float], reason: str = "") -> None:
        super().__init__(counts)
        self.reason = reason


def count_state(spec: OptimizerSpec, model: nn.Module) -> StateCount:
    """Return the bytes of an optimizer's state after a step, by the name of the parameter.

    The blocks of a model are alike, so the optimizer steps on the parameters of one of each kind.
    What it keeps for no parameter stands under its own key. A step that needs numbers, which the
    meta device does not have, leaves them uncounted.

    Args:
        spec: the optimizer.
        model: on the meta device.
    """
    first_of_kind = {}
    for name, param in model.named_parameters():
        first = first_of_kind.setdefault(_kind(name, param), param)
        param.grad = torch.empty_like(param) if param is first else None
    try:
        optimizer = build_optimizer(spec, model, lr=1e-3, weight_decay=0.0)
        with errors_told((), f"{spec.class_path} cannot step without memory", spec.class_path):
            optimizer.step()
    except ConfigError as error:
        return _gap(model, error)
    counts = {
        name: tensor_bytes(optimizer.state.get(first_of_kind[_kind(name, param)]))
        for name, param in model.named_parameters()
    }
    of_none = {key: kept for key, kept in optimizer.state.items() if not isinstance(key, Tensor)}
    return StateCount(counts | {str(key): tensor_bytes(kept) for key, kept in of_none.items()})


def _count(
    name: str, entry: OptimizerSettings, settings: ModelSettings, model: nn.Module
) -> StateCount:
    """Count the state of an entry of optimizers.yaml for one model."""
    try:
        return count_state(optimizer_spec(name, entry, settings), model)
    except ConfigError as error:  # an argument stands for what the model does not have
        return _gap(model, error)


def _gap(model: nn.Module, error: ConfigError) -> StateCount:
    return StateCount(dict.fromkeys(dict(model.named_parameters()), math.nan), str(error))


def _kind(name: str, param: nn.Parameter) -> tuple[str, torch.Size]:
    """Return what parameters have in common that stand in the same place of several blocks."""
    return re.sub(r"\d+", "", name), param.shape


def _routed(by_name: dict[str, float]) -> float:
    """Return the part of the routed experts."""
    return sum(value for name, value in by_name.items() if ".experts." in name)


def _replicated(total: float, routed: float, layout: Layout) -> float:
    """Return the bytes a device where data-parallel copies of the model each hold their state."""
    split = layout.tp * layout.pp
    return (total - routed) / split + routed / (split * layout.ep)
