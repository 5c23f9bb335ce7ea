"""Checkpoints that any number of processes can go on from."""

from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.grid import RunSpec
from experiments.models import build_model
from experiments.optimizers import build_optimizer
from experiments.settings import ConfigError

State = dict[str, Any]  # as of Optimizer.state_dict


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Save a run between two steps; every process has to call it, and the first one writes.

    Raises:
        FileError: it cannot be written; the checkpoint before it is as it was.
    """
    trainer.save_checkpoint(path, weights_only=False)  # the optimizer's state as well


def by_name(state: State, model: nn.Module, optimizer: Optimizer) -> State:
    """Return an optimizer's state dict with names of parameters for their numbers.

    Its numbers follow its groups, so they say nothing without it.
    """
    names = {param: name for name, param in model.named_parameters()}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    keys = dict(enumerate(names[param] for param in params))
    return _renamed(state, keys)


def by_number(state: State) -> State:
    """Return an optimizer's state dict with numbers of parameters for their names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    return _renamed(state, dict(zip(names, count())))


def check_shapes(saved: State, fresh: State) -> None:
    """Refuse an optimizer's state that cannot be loaded.

    Codes of 4 and 8 bits share a scale in blocks; where shards cut blocks, each has its own.

    Args:
        saved: the state dict of a checkpoint, by name.
        fresh: that of an optimizer that is to load it, by name.

    Raises:
        ConfigError: some tensor has another shape.
    """
    for name, values in saved["state"].items():
        for key, value in values.items():
            expected = fresh["state"][name].get(key)
            if isinstance(value, Tensor) and value.shape != expected.shape:
                raise ConfigError(
                    f"{key} of {name} was saved with shape {tuple(value.shape)}, but it must have"
                    f" {tuple(expected.shape)}: blocks of codes were cut by another number of"
                    " processes; go on with as many as before, or with strategy ddp from the start"
                )


def fresh_state(spec: RunSpec) -> State:
    """Return the state dict, by name, of a run's optimizer in one process; without memory."""
    with torch.device("meta"):
        model = build_model(spec.model)
    training = spec.training
    optimizer = build_optimizer(spec.optimizer, model, training.lr, training.weight_decay)
    for param in model.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step()
    return by_name(optimizer.state_dict(), nn.ModuleDict({"model": model}), optimizer)


def _renamed(state: State, keys: dict[Any, Any]) -> State:
    groups = [
        group | {"params": [keys[key] for key in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {keys[key]: values for key, values in state["state"].items()},
        "param_groups": groups,
    }
