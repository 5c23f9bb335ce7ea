"""Notes on the device at which step a loss was not finite, so that no step waits for its loss."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

_NEVER = 2**62


class Divergence:
    """The first step with a loss that is not finite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # int64 scalar on the device

    def note(self, step: int, loss: Tensor) -> None:
        """Note a step if its loss is not finite and no earlier step is noted.

        Args:
            step: number of the step.
            loss: its loss in this process, a scalar.
        """
        if self._first is None:
            self._first = torch.full((), _NEVER, device=loss.device)
        self._first = torch.where(loss.isfinite(), self._first, self._first.clamp(max=step))

    def first_step(self, strategy: Strategy) -> int | None:
        """Return the first noted step of all processes; None if there is none. Waits for it."""
        first = int(strategy.reduce(self._first, reduce_op="min"))
        return first if first < _NEVER else None
