"""Validation of the parameter groups of an optimizer."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from powerstep.arguments import ArgumentRule, at_least, learning_rate, one_of, whole_number
from powerstep.state import PRECISIONS

PARAM_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class ValidatedOptimizer(Optimizer):
    """Base class that validates parameter groups from the constructor, state dicts and pickles.

    A subclass defines a rule for each of its arguments in `rules`.
    """

    rules: ClassVar[dict[str, ArgumentRule]]
    # Values for arguments that state dicts and pickles of older versions lack.
    legacy_defaults: ClassVar[dict[str, Any]] = {}

    common_rules: ClassVar[dict[str, ArgumentRule]] = {
        "lr": learning_rate(),
        "weight_decay": at_least(0),
        "state_precision": one_of(*PRECISIONS),
        "block_size": whole_number(1),
        "maximize": one_of(True, False),
        "stochastic_rounding": one_of(True, False),
        "compiled": one_of(None, True, False),
        "capturable": one_of(True, False),
    }
    # Every group has these values. A subclass may also accept them as constructor arguments.
    common_defaults: ClassVar[dict[str, Any]] = {
        "state_precision": "fp32",
        "block_size": 128,
        "maximize": False,
        "stochastic_rounding": False,
        "compiled": None,
        "capturable": False,
    }

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        defaults = self.common_defaults | defaults
        self._check_arguments(defaults)
        if "gamma" in self.rules:
            defaults["momentum"] = defaults["gamma"]  # see _adopt_momentum
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, and validate its values.

        Raises:
            ValueError: a value is invalid, or a parameter has an unsupported dtype.
        """
        if isinstance(param_group, dict):  # torch reports other types
            self._adopt_momentum(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if "gamma" in self.rules:
            del group["momentum"]  # copied from self.defaults by torch
        try:
            self._check_arguments(group)
            self._check_params(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = [self._with_legacy_defaults(group) for group in state["param_groups"]]
        for group in groups:
            self._check_arguments(group)
            self._check_params(group)
        super().__setstate__(state | {"param_groups": groups})
        if "gamma" in self.rules:
            self.defaults.setdefault("momentum", self.defaults["gamma"])

    def _name_of(self, param: Tensor) -> str:
        """Return the name of a parameter for error messages."""
        for index, group in enumerate(self.param_groups):
            for place, other in enumerate(group["params"]):
                if other is param and "param_names" in group:
                    return f"parameter {group['param_names'][place]!r}"
                if other is param:
                    return f"parameter {place} of group {index}"
        raise KeyError("the parameter is in no group of the optimizer")

    def _check_grad(self, param: Tensor) -> None:
        """Raise an error for a gradient that is sparse or of another shape than its parameter."""
        grad = param.grad
        if grad.layout is not torch.strided:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        if grad.shape != param.shape:
            raise ValueError(
                f"{self._name_of(param)}: its gradient has shape {tuple(grad.shape)}, but it"
                f" must have {tuple(param.shape)}"
            )

    def _with_legacy_defaults(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a loaded group with defaults for the arguments that older versions lacked."""
        defaults = self.common_defaults | self.legacy_defaults
        missing = {name: value for name, value in defaults.items() if name not in group}
        group = group | missing
        self._adopt_momentum(group)
        return group

    def _adopt_momentum(self, group: dict[str, Any]) -> None:
        """Move a group's "momentum" to "gamma".

        torch's `OneCycleLR` and `CyclicLR` look for "momentum" in `defaults` and write it to the
        groups (torch.optim.lr_scheduler).
        """
        if "gamma" in self.rules and "momentum" in group:
            group["gamma"] = group.pop("momentum")

    @classmethod
    def _check_arguments(cls, values: dict[str, Any]) -> None:
        """Raise ValueError for a missing or invalid value."""
        for name, rule in (cls.common_rules | cls.rules).items():
            if name not in values:
                raise ValueError(
                    f"a parameter group has no {name}, which {cls.__name__} needs; the group"
                    " belongs to another optimizer"
                )
            if not rule.accepts(values[name]):
                raise ValueError(f"{name} is {values[name]!r}, but it must be {rule.requirement}")

    @classmethod
    def _check_params(cls, group: dict[str, Any]) -> None:
        """Raise ValueError for parameters of unsupported dtypes."""
        for param in group["params"]:
            if param.is_complex():
                raise ValueError(
                    f"{cls.__name__} does not support complex parameters; pass"
                    " torch.view_as_real(param)"
                )
            if param.dtype not in PARAM_DTYPES:
                raise ValueError(
                    f"{cls.__name__} does not support parameters of dtype {param.dtype}; it"
                    f" supports {', '.join(map(str, PARAM_DTYPES))}"
                )
