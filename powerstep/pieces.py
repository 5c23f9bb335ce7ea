"""The part of a parameter that a step works on at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from powerstep.rounding import stochastic_round_
from powerstep.state import Storage


def piece_limit(device: torch.device) -> int:
    """Return how many elements to work on at a time.

    A step's temporaries then need little memory however large the parameter is, and on a CPU they
    stay in its cache.
    """
    return 2**19 if device.type == "cpu" else 2**24


class Work(NamedTuple):
    """What an update computes with, all of one shape.

    Attributes:
        theta: fp32 or fp64.
        grad: fp32, with its sign changed where the loss is maximized.
        buffers: fp32.
    """

    theta: Tensor
    grad: Tensor
    buffers: list[Tensor]


class Piece(NamedTuple):
    """Views of a parameter, of its gradient, and of the stored parts of each buffer.

    Attributes:
        param: any shape and floating dtype.
        grad: the shape of `param`.
        stored: for each buffer its parts, flat.
        storage: how buffers are stored.
        group: the parameter group.
    """

    param: Tensor
    grad: Tensor
    stored: Sequence[Sequence[Tensor]]
    storage: Storage
    group: dict[str, Any]

    @property
    def numel(self) -> int:
        """Elements of the parameter in this piece."""
        return self.param.numel()

    def cut(self, start: int, end: int) -> "Piece":
        """Return the elements from `start` to `end` of a flat piece, or the whole of any other."""
        if end - start == self.numel:
            return self
        stored = [
            [
                tensor[start // part.span : -(-end // part.span)]
                for tensor, part in zip(parts, self.storage.parts, strict=True)
            ]
            for parts in self.stored
        ]
        return Piece(self.param[start:end], self.grad[start:end], stored, self.storage, self.group)

    def load(self) -> Work:
        """Return θ, g and the buffers to compute with; what is in fp32 already, itself."""
        param, grad = self.param, self.grad.float()
        return Work(
            theta=param if param.dtype in (torch.float32, torch.float64) else param.float(),
            grad=-grad if self.group["maximize"] else grad,
            buffers=[
                self.storage.load(parts, self.numel).view(param.shape) for parts in self.stored
            ],
        )

    def store(self, work: Work) -> None:
        """Round back what was computed; the buffers only now, after the update (section 4)."""
        if work.theta is not self.param:
            if self.group["stochastic_rounding"] and self.param.dtype == torch.bfloat16:
                stochastic_round_(self.param, work.theta)
            else:
                self.param.copy_(work.theta)
        if not self.storage.in_place:
            for parts, buffer in zip(self.stored, work.buffers, strict=True):
                self.storage.store(parts, buffer.view(-1))
