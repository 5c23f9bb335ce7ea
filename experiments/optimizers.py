"""From an entry of optimizers.yaml to an optimizer of a model's parameters."""

import inspect
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.grid import OptimizerSpec
from experiments.settings import ConfigError


def build_optimizer(
    spec: OptimizerSpec, model: nn.Module, lr: float, weight_decay: float
) -> Optimizer:
    """Make the optimizer that `spec` describes for the parameters of `model`.

    Every optimizer decays the same parameters: those of two or more dimensions. A class whose first
    argument is `named_parameters` gets (name, parameter) pairs.

    Args:
        spec: the class and its own arguments.
        model: holds the parameters.
        lr: the highest learning rate of the schedule.
        weight_decay: λ of the tensors that decay.

    Raises:
        ConfigError: the class cannot be imported, has no such argument, or refuses a value.
    """
    where = f"optimizers.{spec.name}"
    optimizer_class = _import(spec.class_path, where)
    accepted = _arguments(optimizer_class)
    for name in spec.args:
        if name in ("lr", "weight_decay"):
            raise ConfigError(f"{where}.args has {name!r}, but that is a training setting")
        if name not in accepted:
            raise ConfigError(
                f"{where}.args has {name!r}, but {spec.class_path} accepts only"
                f" {', '.join(accepted[1:])}"
            )
    if "weight_decay" not in accepted and weight_decay:
        raise ConfigError(
            f"training.weight_decay is {weight_decay:g}, but {spec.class_path} of {where} has no"
            " weight decay: it must be 0"
        )
    by_name = accepted[0] == "named_parameters"
    params = list(model.named_parameters()) if by_name else _groups(model, weight_decay)
    try:
        optimizer = optimizer_class(params, lr=lr, **spec.args)
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or "a value is out of its range"
        raise ConfigError(f"{where}.args: {spec.class_path} refuses them: {reason}") from error
    if by_name:  # such a class makes its own groups; the choice of what decays stays ours
        for group in optimizer.param_groups:
            group["weight_decay"] = weight_decay if _decays(group["params"][0]) else 0.0
    return optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Return the bytes of all tensors that the optimizer keeps between steps, counters included."""
    return sum(tensor_bytes(state) for state in optimizer.state.values())


def tensor_bytes(state: dict[str, Any]) -> int:
    """Return the bytes of the tensors of one parameter's state."""
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if _decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in params if not _decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _decays(param: Tensor) -> bool:
    return param.ndim >= 2


def _import(class_path: str, where: str) -> type[Optimizer]:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where}.class is {class_path!r}, but it must be importable: {error}"
        ) from None


def _arguments(optimizer_class: type[Optimizer]) -> list[str]:
    """Name a constructor's arguments; **kwargs accepts nothing here, since it hides mistakes."""
    hidden = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(optimizer_class).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in hidden]
