"""Checkpoints that any number of processes can go on from."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from experiments.optimizers.build import optimizer_on_meta
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError

State = dict[str, Any]  # as of Optimizer.state_dict

# Optimizers may keep arrays and numbers of NumPy, which torch.load takes only if they are named
# here: https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only
torch.serialization.add_safe_globals(
    [
        *(np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar),
        *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + "efd"},
    ]
)


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Save a run between two steps; every process has to call it, and the first one writes.

    Raises:
        FileError: it cannot be written; the checkpoint before it is as it was.
    """
    trainer.save_checkpoint(path, weights_only=False)  # the optimizer's state as well


def by_name(state: State, model: nn.Module, optimizer: Optimizer) -> State:
    """Return an optimizer's state dict with names of parameters for their numbers.

    Its numbers follow its groups, so they say nothing without it. All else that it holds stays.
    """
    names = {param: name for name, param in model.named_parameters()}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return _renamed(
        state, {number: names.get(param, number) for number, param in enumerate(params)}
    )


def by_number(state: State, model: nn.Module) -> State:
    """Return an optimizer's state dict with numbers of parameters for their names."""
    names = {name for name, _ in model.named_parameters()}
    params = [name for group in state.get("param_groups", []) for name in group["params"]]
    return _renamed(state, {name: number for number, name in enumerate(params) if name in names})


def check_shapes(saved: State, fresh: State) -> None:
    """Refuse an optimizer's state that cannot be loaded.

    Codes of 4 and 8 bits share a scale in blocks; where shards cut blocks, each has its own.

    Args:
        saved: the state dict of a checkpoint, by name.
        fresh: that of an optimizer that is to load it, by name; what it lacks is not compared.

    Raises:
        ConfigError: some tensor has another shape.
    """
    for name, values in saved["state"].items():
        expected = fresh["state"].get(name)
        if not isinstance(values, dict) or not isinstance(expected, dict):
            continue
        for key in values.keys() & expected.keys():
            shape, wanted = (getattr(state[key], "shape", None) for state in (values, expected))
            if shape is not None and wanted is not None and shape != wanted:
                raise ConfigError(
                    (),
                    f"{key} of {name} was saved with shape {tuple(shape)}, but it must have"
                    f" {tuple(wanted)}: blocks of codes were cut by another number of"
                    " processes; go on with as many as before, or with strategy ddp from the start",
                )


def fresh_state(spec: RunSpec) -> State:
    """Return the state dict, by name, of a run's optimizer in one process; without memory.

    The optimizer must be one of `powerstep`: others may not be able to step without memory.
    """
    training = spec.training
    model, optimizer = optimizer_on_meta(
        spec.model, spec.optimizer, training.lr, training.weight_decay
    )
    for param in model.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step()
    return by_name(optimizer.state_dict(), nn.ModuleDict({"model": model}), optimizer)


def _renamed(state: State, keys: dict[Any, Any]) -> State:
    """Return a state dict with some of its keys renamed, in its state and in its groups."""
    if not {"state", "param_groups"} <= state.keys():  # of a class with a state dict of its own
        return state
    groups = [
        group | {"params": [keys.get(key, key) for key in group["params"]]}
        for group in state["param_groups"]
    ]
    renamed = {keys.get(key, key): values for key, values in state["state"].items()}
    return state | {"state": renamed, "param_groups": groups}
