"""Rules that validate the arguments of an optimizer."""

from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor


class ArgumentRule(NamedTuple):
    """A requirement on one argument of an optimizer.

    Attributes:
        test: returns whether a value is valid; may raise for values of an unexpected type.
        requirement: the text that follows "it must be" in error messages.
    """

    test: Callable[[Any], bool]
    requirement: str

    def accepts(self, value: Any) -> bool:
        """Return whether a value is valid."""
        try:
            return self.test(value)
        except (TypeError, ValueError, RuntimeError):  # e.g. a string, or several numbers
            return False


def at_least(bound: float) -> ArgumentRule:
    """Accept numbers ≥ `bound`."""
    return ArgumentRule(lambda value: bool(value >= bound), f"at least {bound}")


def whole_number(bound: int) -> ArgumentRule:
    """Accept integers ≥ `bound`."""
    return ArgumentRule(
        lambda value: isinstance(value, Integral) and value >= bound,
        f"a whole number, at least {bound}",
    )


def between(low: float, high: float) -> ArgumentRule:
    """Accept numbers in [low, high]."""
    return ArgumentRule(lambda value: low <= value <= high, f"in [{low}, {high}]")


def learning_rate() -> ArgumentRule:
    """Accept numbers and one-element tensors ≥ 0."""
    return ArgumentRule(
        lambda value: (not isinstance(value, Tensor) or value.numel() == 1) and bool(value >= 0),
        "a number or a tensor of one element, at least 0",
    )


def betas() -> ArgumentRule:
    """Accept two numbers, each in [0, 1)."""
    return ArgumentRule(
        lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
        "two numbers in [0, 1)",
    )


def one_of(*values: Any) -> ArgumentRule:
    """Accept only these values."""
    return ArgumentRule(lambda value: value in values, f"one of {', '.join(map(str, values))}")
