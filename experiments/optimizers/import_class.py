"""Imports an optimizer class by its dotted path, and checks that the training loop can use it."""

import inspect
from importlib import import_module
from typing import Any

from torch.optim import Optimizer

from experiments.optimizers.user_code import errors_explained
from experiments.settings import ConfigError, Keys

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def import_class(class_path: str, where: Keys) -> type[Optimizer]:
    """Import an optimizer class that works with a plain `step()`, as the training loop calls it.

    Args:
        class_path: dotted path, such as "torch.optim.SGD".
        where: keys of the entry that names the class, such as ("optimizers", "sgd").

    Raises:
        ConfigError: the class cannot be imported, is not an optimizer, or needs more than `step()`.
    """
    field, problem = (*where, "class"), f"is {class_path!r}, but"
    with errors_explained(field, f"{problem} it must be importable", class_path):
        found = import_object(class_path)
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise ConfigError(field, f"{problem} it must be a subclass of torch.optim.Optimizer")
    if inspect.unwrap(found.step) is inspect.unwrap(Optimizer.step):
        raise ConfigError(field, f"{problem} it must have a method step")
    required = [
        parameter.name
        for parameter in [*inspect.signature(found.step).parameters.values()][1:]
        if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
    ]
    if required:
        raise ConfigError(
            field,
            f"{problem} its step asks for {', '.join(required)}: it must work without arguments,"
            " and closures that evaluate the loss again are not supported",
        )
    if all(callable(getattr(found, mode, None)) for mode in ("train", "eval")):
        raise ConfigError(
            field,
            f"{problem} it has methods train and eval: optimizers that switch between training and"
            " evaluation are not supported",
        )
    return found


def import_object(path: str) -> Any:
    """Import the object at a dotted path such as "torch.optim.SGD".

    Raises:
        ImportError: the module, or a module that it imports, is not installed.
        AttributeError: the module has no such name.
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def arguments(optimizer_class: type[Optimizer]) -> list[str]:
    """Return the names of a constructor's arguments, without *args and **kwargs."""
    parameters = inspect.signature(optimizer_class).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in _VARIADIC]
