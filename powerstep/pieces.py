"""Pieces of a parameter, which a step updates one at a time."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from powerstep.rounding import stochastic_round_
from powerstep.state import Storage


def piece_limit(device: torch.device) -> int:
    """Return the largest number of elements per piece.

    The limit bounds the memory of a step's temporaries, and on a CPU keeps them in its cache. The
    meta device has no memory.
    """
    return {"cpu": 2**19, "meta": sys.maxsize}.get(device.type, 2**24)


class Work(NamedTuple):
    """The tensors of one update, all of one shape.

    Attributes:
        theta: the parameter, fp32 or fp64.
        grad: its gradient, fp32; negated if the loss is maximized.
        buffers: the optimizer's buffers, fp32.
    """

    theta: Tensor
    grad: Tensor
    buffers: list[Tensor]


class Piece(NamedTuple):
    """Views of a parameter, its gradient, and the stored parts of each buffer.

    Attributes:
        param: any shape and floating dtype.
        grad: the shape of `param`.
        stored: the flat parts of each buffer.
        storage: how each buffer is stored.
        group: the parameter group.
    """

    param: Tensor
    grad: Tensor
    stored: Sequence[Sequence[Tensor]]
    storage: Storage
    group: dict[str, Any]

    @property
    def numel(self) -> int:
        """Number of elements of the piece."""
        return self.param.numel()

    def cut(self, start: int, end: int) -> "Piece":
        """Return elements `start` to `end` (exclusive) of a flat piece.

        For a piece that is not flat the range must be the whole piece.
        """
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
        """Return the tensors of an update. Tensors of the right dtype are not copied."""
        param, grad = self.param, self.grad.float()
        return Work(
            theta=param if param.dtype in (torch.float32, torch.float64) else param.float(),
            grad=-grad if self.group["maximize"] else grad,
            buffers=[
                self.storage.load(parts, self.numel).view(param.shape) for parts in self.stored
            ],
        )

    def store(self, work: Work) -> None:
        """Write back θ and the buffers, rounded after the update (arXiv:2605.10335, section 4)."""
        if work.theta is not self.param:
            if self.group["stochastic_rounding"] and self.param.dtype == torch.bfloat16:
                stochastic_round_(self.param, work.theta)
            else:
                self.param.copy_(work.theta)
        if not self.storage.in_place:
            for parts, buffer in zip(self.stored, work.buffers, strict=True):
                self.storage.store(parts, buffer.view(-1))
