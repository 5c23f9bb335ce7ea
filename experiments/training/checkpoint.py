"""Checkpoints from which any number of processes can resume a run."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.optimizers.build import optimizer_on_meta
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError

State = dict[str, Any]  # the state dict of an optimizer, as Optimizer.state_dict returns it

# An optimizer's state may hold NumPy arrays and scalars. torch.load accepts these only if their
# classes are listed: https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only
torch.serialization.add_safe_globals(
    [
        *(np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar),
        *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + "efd"},
    ]
)


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Save a run between two steps. Every process must call this; the first one writes the file.

    Raises:
        FileError: the file cannot be written; the previous checkpoint is unchanged.
    """
    trainer.save_checkpoint(path, weights_only=False)  # False: save the optimizer too


def by_name(state: State, model: nn.Module, optimizer: Optimizer) -> State:
    """Return an optimizer's state dict with the parameters' names in place of their numbers.

    torch numbers the parameters in the order of the optimizer's groups, so a number means nothing
    without these groups. All other entries are kept.
    """
    names = {param: name for name, param in model.named_parameters()}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return _renamed(
        state, {number: names.get(param, number) for number, param in enumerate(params)}
    )


def by_number(state: State, model: nn.Module) -> State:
    """Return an optimizer's state dict with the parameters' numbers in place of their names."""
    names = {name for name, _ in model.named_parameters()}
    params = [name for group in state.get("param_groups", []) for name in group["params"]]
    return _renamed(state, {name: number for number, name in enumerate(params) if name in names})


def check_shapes(saved: State, fresh: State) -> None:
    """Check that an optimizer can load a saved state.

    The 4-bit and 8-bit codes of a block share one scale. If the boundary of a shard cuts a block,
    each part gets its own scale, so the shapes can depend on the number of processes.

    Args:
        saved: the state dict of a checkpoint, with the parameters' names.
        fresh: the state dict, with the parameters' names, of the optimizer that will load it;
            entries that are missing here are not compared.

    Raises:
        ConfigError: a tensor has another shape.
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
    """Return the state dict of a run's optimizer after one step in one process, on the meta device.

    Its keys are the parameters' names. The optimizer must be one of `powerstep`: others may be
    unable to step on the meta device.
    """
    training = spec.training
    model, optimizer = optimizer_on_meta(
        spec.model, spec.optimizer, training.lr, training.weight_decay
    )
    for param in model.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step()
    return by_name(optimizer.state_dict(), nn.ModuleDict({"model": model}), optimizer)


def rng_states() -> dict[str, Tensor]:
    """Return the states of torch's default random-number generators."""
    on_gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state()} | on_gpu


def restore_rng_states(states: dict[str, Tensor]) -> None:
    """Restore the states that `rng_states` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _renamed(state: State, keys: dict[Any, Any]) -> State:
    """Return a state dict with some parameters renamed, both in its state and in its groups."""
    if not {"state", "param_groups"} <= state.keys():  # the class has its own format
        return state
    groups = [
        group | {"params": [keys.get(key, key) for key in group["params"]]}
        for group in state["param_groups"]
    ]
    renamed = {keys.get(key, key): values for key, values in state["state"].items()}
    return state | {"state": renamed, "param_groups": groups}
