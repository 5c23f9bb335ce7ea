"""Builds the optimizer of a model from an entry of optimizers.yaml."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.models.build import model_on_meta
from experiments.models.settings import ModelSettings
from experiments.optimizers.import_class import arguments, import_class
from experiments.optimizers.settings import OptimizerSpec
from experiments.optimizers.user_code import describe, errors_explained
from experiments.settings import ConfigError, Keys, dotted


def build_optimizer(
    spec: OptimizerSpec, model: nn.Module, lr: float, weight_decay: float
) -> Optimizer:
    """Build the optimizer of `model` that `spec` describes.

    Weight decay applies to the same parameters for every optimizer: those of two or more
    dimensions. A class whose first argument is `named_parameters` gets (name, parameter) pairs.

    Args:
        spec: the class and its arguments.
        model: the model whose parameters are optimized.
        lr: peak learning rate of the schedule.
        weight_decay: λ, for the parameters that decay.

    Raises:
        ConfigError: the class cannot be imported, is not an optimizer that the training loop can
            use, does not accept an argument, or raises an error in its constructor.
    """
    where = ("optimizers", spec.name)
    optimizer_class = import_class(spec.class_path, where)
    accepted = arguments(optimizer_class)
    for name in spec.args:
        if name in ("lr", "weight_decay"):
            raise ConfigError((*where, "args"), f"has {name!r}, but that is a training setting")
        if name not in accepted:
            raise ConfigError(
                (*where, "args"),
                f"has {name!r}, but {spec.class_path} accepts only {', '.join(accepted[1:])}",
            )
    if "weight_decay" not in accepted and weight_decay:
        raise ConfigError(
            ("training", "weight_decay"),
            f"is {weight_decay:g}, but {spec.class_path} of {dotted(where)} has no weight decay: it"
            " must be 0",
        )
    by_name = accepted[:1] == ["named_parameters"]
    params = list(model.named_parameters()) if by_name else _groups(model, weight_decay)
    refused = f"is {spec.class_path!r}, but it cannot be made"
    with errors_explained((*where, "class"), refused, spec.class_path):
        try:
            optimizer = optimizer_class(params, lr=lr, **deepcopy(spec.args))
        except (AssertionError, TypeError, ValueError) as error:
            reason = describe(error, spec.class_path)
            raise ConfigError(
                (*where, "args"), f": {spec.class_path} refuses them: {reason}"
            ) from error
        _check_groups(optimizer, spec.class_path, where)
    if by_name:  # the class makes its own groups; set the same weight decay as for other classes
        for group in optimizer.param_groups:
            decays = any(map(_decays, group["params"][:1]))
            group["weight_decay"] = weight_decay if decays else 0.0
    return optimizer


def optimizer_on_meta(
    settings: ModelSettings, spec: OptimizerSpec, lr: float, weight_decay: float
) -> tuple[nn.Module, Optimizer]:
    """Build a model on the meta device and its optimizer; neither takes memory.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    model = model_on_meta(settings)
    return model, build_optimizer(spec, model, lr, weight_decay)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if _decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in params if not _decays(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _decays(param: Tensor) -> bool:
    return param.ndim >= 2


def _check_groups(optimizer: Optimizer, class_path: str, where: Keys) -> None:
    """Refuse an optimizer whose learning rates a schedule cannot set."""
    if not optimizer.param_groups or any("lr" not in group for group in optimizer.param_groups):
        raise ConfigError(
            (*where, "class"),
            f"is {class_path!r}, but it must have parameter groups, each with an lr",
        )
