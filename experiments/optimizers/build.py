"""Builds the optimizer of a model from an entry of optimizers.yaml."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from experiments.models.build import model_on_meta
from experiments.models.settings import ModelSettings
from experiments.optimizers.composite import CompositeOptimizer
from experiments.optimizers.grouping import Named, partition
from experiments.optimizers.import_class import arguments, import_class, names_option
from experiments.optimizers.settings import GroupSpec, OptimizerSpec
from experiments.optimizers.user_code import describe, errors_explained
from experiments.settings import ConfigError, Keys, dotted

_ALL = GroupSpec()  # settings of the parameters of an entry without groups


@dataclass(frozen=True)
class _Part:
    """One optimizer class with its arguments, and the groups of parameters that it updates."""

    where: Keys
    class_path: str
    args: dict[str, Any]
    groups: list[tuple[Keys, GroupSpec, Named]]
    closure: bool = False


def build_optimizer(
    spec: OptimizerSpec, model: nn.Module, lr: float, weight_decay: float
) -> Optimizer:
    """Build the optimizer of `model` that `spec` describes.

    Weight decay applies to the same parameters for every optimizer: those of two or more
    dimensions, unless a group has its own. A class whose first argument is `named_parameters` gets
    (name, parameter) pairs.

    Args:
        spec: the classes, their arguments and the groups of parameters.
        model: the model whose parameters are optimized.
        lr: peak learning rate of the schedule; groups multiply it by their factors.
        weight_decay: λ, for the parameters that decay.

    Returns:
        An optimizer of the class; a CompositeOptimizer if there are several.

    Raises:
        ConfigError: a class cannot be imported, is not an optimizer that the training loop can use,
            does not accept an argument, or raises an error in its constructor; or the groups do not
            contain each parameter exactly once.
    """
    built = [_build(part, lr, weight_decay) for part in _parts(spec, model)]
    return built[0] if len(built) == 1 else CompositeOptimizer(built)


def optimizer_on_meta(
    settings: ModelSettings, spec: OptimizerSpec, lr: float, weight_decay: float
) -> tuple[nn.Module, Optimizer]:
    """Build a model on the meta device and its optimizer; neither takes memory.

    Raises:
        ConfigError: as `build_optimizer`.
    """
    model = model_on_meta(settings)
    return model, build_optimizer(spec, model, lr, weight_decay)


def _parts(spec: OptimizerSpec, model: nn.Module) -> list[_Part]:
    """Return the parts of an optimizer: the entry's class, and each group with a class of its own.

    Groups without a class of their own are parameter groups of the entry's.
    """
    where = ("optimizers", spec.name)
    if not spec.groups:
        whole = [(where, _ALL, dict(model.named_parameters()))]
        return [_Part(where, spec.class_path, spec.args, whole, spec.closure)]
    parts, shared = [], []
    named = partition(spec, model)
    for index, (group, params) in enumerate(zip(spec.groups, named, strict=True)):
        field = (*where, "groups", str(index))
        if group.class_path:
            alone = group.model_copy(update={"args": {}})  # the arguments are the constructor's
            parts.append(_Part(field, group.class_path, group.args, [(field, alone, params)]))
        else:
            shared.append((field, group, params))
    if shared:
        parts.insert(0, _Part(where, spec.class_path, spec.args, shared, spec.closure))
    return parts


def _build(part: _Part, lr: float, weight_decay: float) -> Optimizer:
    """Build the optimizer of one part."""
    optimizer_class = import_class(part.class_path, part.where, closure=part.closure)
    accepted = arguments(optimizer_class)
    _check_args(part, optimizer_class)
    groups = [
        group for each in part.groups for group in _param_groups(each, lr, weight_decay)
    ]  # of dicts in torch's format
    if "weight_decay" not in accepted:
        decay = max(group["weight_decay"] for group in groups)
        if decay:
            raise ConfigError(
                ("training", "weight_decay"),
                f"is {decay:g}, but {part.class_path} of {dotted(part.where)} has no weight decay:"
                " it must be 0",
            )
        if len(part.groups) == 1:  # LBFGS refuses more than one group
            groups = [groups[0] | {"params": [*part.groups[0][2].values()]}]
    by_name = accepted[0] == "named_parameters"
    named = part.groups[0][2]
    refused = f"is {part.class_path!r}, but it cannot be made"
    with errors_explained((*part.where, "class"), refused, part.class_path):
        try:
            optimizer = optimizer_class(
                list(named.items()) if by_name else groups,
                lr=groups[0]["lr"] if by_name else lr,
                **deepcopy(part.args),
            )
        except (AssertionError, TypeError, ValueError) as error:
            reason = describe(error, part.class_path)
            raise ConfigError(
                (*part.where, "args"), f": {part.class_path} refuses them: {reason}"
            ) from error
        _check_groups(optimizer, part)
    if by_name:  # the class makes its own groups; set the same weight decay as for other classes
        decays = {param: group["weight_decay"] for group in groups for param in group["params"]}
        for group in optimizer.param_groups:
            group["weight_decay"] = next((decays[param] for param in group["params"][:1]), 0.0)
    return optimizer


def _check_args(part: _Part, optimizer_class: type[Optimizer]) -> None:
    """Raise a ConfigError if the class does not accept an argument, or a key of its groups."""
    accepted = arguments(optimizer_class)
    for where, args in [(part.where, part.args), *((w, g.args) for w, g, _ in part.groups)]:
        for name in args:
            if name in ("lr", "weight_decay"):
                own = " or the group's own" if "groups" in where else ""
                raise ConfigError(
                    (*where, "args"), f"has {name!r}, but that is a training setting{own}"
                )
            is_known = names_option(optimizer_class, name) if args is not part.args else False
            if name not in accepted and not is_known:
                raise ConfigError(
                    (*where, "args"),
                    f"has {name!r}, but {part.class_path} accepts only {', '.join(accepted[1:])}",
                )
    if accepted[0] == "named_parameters" and len(part.groups) > 1:
        raise ConfigError(
            (*part.where, "groups"),
            f": {part.class_path} takes named_parameters and makes its own groups, so only one"
            " group can be of this class",
        )


def _param_groups(
    group: tuple[Keys, GroupSpec, Named], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return a group in torch's format, split into parameters that decay and that do not."""
    _, settings, named = group
    options = {**deepcopy(settings.args), "lr": lr * settings.lr_factor}
    if settings.weight_decay is not None:
        return [{"params": [*named.values()], "weight_decay": settings.weight_decay} | options]
    split = [
        {"params": [p for p in named.values() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [each | options for each in split if each["params"]]


def _check_groups(optimizer: Optimizer, part: _Part) -> None:
    """Refuse an optimizer whose learning rates a schedule cannot set."""
    if not optimizer.param_groups or any("lr" not in group for group in optimizer.param_groups):
        raise ConfigError(
            (*part.where, "class"),
            f"is {part.class_path!r}, but it must have parameter groups, each with an lr",
        )
