"""Imports an optimizer class by its dotted path, and checks that the training loop can use it."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from types import CodeType
from typing import Any

from torch.optim import Optimizer

from experiments.optimizers.user_code import errors_explained
from experiments.settings import ConfigError, Keys

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def import_class(class_path: str, where: Keys, *, closure: bool = False) -> type[Optimizer]:
    """Import an optimizer class that the training loop can construct and step.

    Args:
        class_path: dotted path, such as "torch.optim.SGD".
        where: keys of the entry that names the class, such as ("optimizers", "sgd").
        closure: whether its step is called with a closure.

    Raises:
        ConfigError: the class cannot be imported, is not an optimizer, has no argument lr, or its
            step needs more than it gets.
    """
    field, problem = (*where, "class"), f"is {class_path!r}, but"
    with errors_explained(field, f"{problem} it must be importable", class_path):
        found = import_object(class_path)
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise ConfigError(field, f"{problem} it must be a subclass of torch.optim.Optimizer")
    if "lr" not in arguments(found):
        raise ConfigError(field, f"{problem} its constructor must have an argument named lr")
    if inspect.unwrap(found.step) is inspect.unwrap(Optimizer.step):
        raise ConfigError(field, f"{problem} it must have a method step")
    required = [
        parameter.name
        for parameter in [*inspect.signature(found.step).parameters.values()][1:]
        if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
    ]
    if required == ["closure"] and not closure:
        raise ConfigError(
            field, f"{problem} its step needs a closure: add `closure: true` to the entry"
        )
    if required and required != ["closure"]:
        raise ConfigError(
            field,
            f"{problem} its step asks for {', '.join(required)}: it must work without arguments, or"
            " with a closure",
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


def names_option(optimizer_class: type[Optimizer], name: str) -> bool:
    """Return whether a class knows a key of its parameter groups.

    The key is an argument of the constructor, or a string in the code of one of its methods, such
    as group["use_muon"]. torch itself accepts every key, so a misspelt one would be ignored.
    """
    if name in arguments(optimizer_class):
        return True
    methods = (
        member
        for base in optimizer_class.__mro__
        if base not in (Optimizer, object)
        for member in vars(base).values()
    )
    codes = (getattr(inspect.unwrap(m), "__code__", None) for m in methods if callable(m))
    return any(name in _strings(code) for code in codes if code)


def _strings(code: CodeType) -> Iterator[str]:
    """Yield the strings in a function's code, and in the functions that it defines."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _strings(constant)
        elif isinstance(constant, (str, tuple)):
            yield from [constant] if isinstance(constant, str) else constant
