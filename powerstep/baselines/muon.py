"""Muon on hidden matrices, combined with PowerStep or AdamW on all other parameters."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from powerstep.arguments import ArgumentRule, at_least, betas, learning_rate, whole_number
from powerstep.base import ElementwiseOptimizer
from powerstep.baselines.adamw import adamw_formula
from powerstep.functional import adamw_
from powerstep.kernels.formula import Formula
from powerstep.optimizer import PowerStep
from powerstep.pieces import Work
from powerstep.state import Full, StateLayout

NamedParameters = Iterable[tuple[str, nn.Parameter]]

_POSITIVE = ArgumentRule(lambda value: bool(value > 0), "greater than 0")
MOMENTUM = 0.95  # μ, the decay factor of the momentum of hidden matrices
RMS = 0.2  # root mean square of an AdamW update, to which Muon's updates are scaled
# Coefficients of the quintic Newton-Schulz iteration of Jordan's Muon, number of iterations, and
# lower bound of the norm (https://kellerjordan.github.io/posts/muon/). The slope at 0 is steep, so
# that five iterations bring the singular values to about 0.7 to 1.2.
_COEFFICIENTS, _ITERATIONS, _EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7


def orthogonalised(matrices: Tensor) -> Tensor:
    """Orthogonalise each matrix U·S·V^T: return approximately U·V^T.

    Args:
        matrices: fp32, shape (…, rows, columns); a batch of matrices.

    Returns:
        A new tensor of the same shape. The singular values of its matrices are close to 1.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class _MuonOnMatrices(ElementwiseOptimizer):
    """Base class that updates hidden matrices with Muon, and other parameters with `_update`.

        m ← μ·m + (1-μ)·g;  n ← μ·m + (1-μ)·g                    Nesterov
        θ ← (1-η·λ)·θ - η·0.2·√max(rows, columns)·U·V^T of n

    The factor scales the step to the size of AdamW's (Liu et al., arXiv:2502.16982, section 2.2),
    so that all parameters can use one learning rate.
    """

    common_defaults: ClassVar[dict[str, Any]] = ElementwiseOptimizer.common_defaults | {
        "stacked": 1
    }
    common_rules: ClassVar[dict[str, ArgumentRule]] = ElementwiseOptimizer.common_rules | {
        "stacked": whole_number(1)
    }

    def _state_layout(self, group: dict[str, Any]) -> StateLayout:
        if group["is_matrix"]:
            return StateLayout(("momentum",), Full(torch.float32), False, group["capturable"])
        return super()._state_layout(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group with the key `is_matrix`.

        Args:
            param_group: named parameters; `is_matrix`, whether they are hidden matrices; and
                optionally `stacked`, the number of linear maps in each matrix, 1 by default.

        Raises:
            ValueError: `is_matrix` is missing, a value is invalid, or a parameter of a group with
                is_matrix=True is not a matrix.
        """
        self._check_is_matrix(param_group)
        super().add_param_group(param_group)

    @classmethod
    def _check_is_matrix(cls, group: dict[str, Any]) -> None:
        if group.get("is_matrix") not in (True, False):
            raise ValueError(
                f"{cls.__name__} does not know which parameters of a group are hidden matrices;"
                " pass all named_parameters to the constructor, or set is_matrix=True or False in"
                " the group"
            )

    @classmethod
    def _check_params(cls, group: dict[str, Any]) -> None:
        super()._check_params(group)
        cls._check_is_matrix(group)
        if not group["is_matrix"]:
            return
        for param in group["params"]:
            shape = tuple(param.shape)
            if isinstance(param, DTensor):
                raise ValueError(
                    "Muon needs whole matrices; it does not support sharded parameters"
                )
            if len(shape) < 2 or _as_matrices(param).shape[-2] % group["stacked"]:
                raise ValueError(
                    f"a parameter of shape {shape} is in a group with is_matrix=True and"
                    f" stacked={group['stacked']}, but it must have at least 2 dimensions and a"
                    " number of rows divisible by stacked"
                )

    def _step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        if not group["is_matrix"]:
            super()._step_group(params, group)
            return
        for param in params:
            momentum, grad = self.state[param]["momentum"], param.grad.float()
            momentum.lerp_(grad, 1 - MOMENTUM)
            # Split a matrix that stacks several linear maps by rows: (…, maps, rows, columns).
            matrices = _as_matrices(grad.lerp(momentum, MOMENTUM))
            maps = matrices.unflatten(-2, (group["stacked"], -1))
            update = orthogonalised(maps).reshape(param.shape)
            scale = RMS * math.sqrt(max(maps.shape[-2:]))
            theta = param.float() * (1 - group["lr"] * group["weight_decay"])
            param.copy_(theta - group["lr"] * scale * update)


def _as_matrices(tensor: Tensor) -> Tensor:
    """View a convolution kernel, (out, in, height, width), as a matrix (out, in·height·width)."""
    return tensor.flatten(1) if tensor.ndim >= 4 else tensor


class MuonPowerStep(_MuonOnMatrices, PowerStep):
    """Muon on hidden matrices, PowerStep on embeddings, output layer and vectors.

    This is the combination of arXiv:2605.10335, version 2, section 5.6. Every parameter of at least
    two dimensions is a hidden matrix unless its name contains "embed" or "lm_head". Some parameters
    have several matrices, which are orthogonalised separately:

    - A 3-dimensional tensor has one matrix per expert. The kernel of a Conv1d has the same shape
      and is treated in the same way.
    - A matrix named "gate_up_proj" is split into halves, because `transformers` stacks the two
      linear maps of a gated feed-forward block.

    A convolution kernel of four or more dimensions is flattened to the matrix
    (out, in·height·width) (https://kellerjordan.github.io/posts/muon/).

    Schedulers that cycle the momentum cycle γ; the momentum of hidden matrices stays at 0.95.

    Muon's updates are scaled to the size of AdamW's, and PowerStep's are about twice as large. The
    default of `aux_lr_ratio` makes the steps of all parameters about equal. The paper names no
    ratio, so 1 is its reading.

    Args:
        named_parameters: (name, parameter) pairs, as from `model.named_parameters()`. Every hidden
            matrix that is not named "gate_up_proj" must be a single linear map.
        lr: η, the learning rate of hidden matrices; at least 0.
        gamma: γ of PowerStep, in [0, 1].
        beta: β of PowerStep, in [0, 1].
        weight_decay: λ, decoupled; at least 0.
        aux_lr_ratio: learning rate of all other parameters, divided by lr; greater than 0. It does
            not apply to groups that are added later: their learning rate is lr if they name none.

    Raises:
        ValueError: an argument is out of range, the parameters have no names, or a parameter is
            sharded, has an unsupported dtype, or cannot be split into matrices.
    """

    def __init__(
        self,
        named_parameters: NamedParameters,
        lr: float | Tensor,
        gamma: float = 0.9,
        beta: float = 0.1,
        weight_decay: float = 0.0,
        aux_lr_ratio: float = 0.5,
    ) -> None:
        groups = _param_groups(named_parameters, type(self).__name__, lr, aux_lr_ratio)
        super().__init__(groups, lr, gamma, beta, weight_decay)


class MuonAdamW(_MuonOnMatrices):
    """Muon on hidden matrices, AdamW on embeddings, output layer and vectors (arXiv:2502.16982).

    Args:
        named_parameters: as in `MuonPowerStep`.
        lr: η, the learning rate of hidden matrices; at least 0.
        betas: β1 and β2 of AdamW, each in [0, 1).
        eps: ε of AdamW; at least 0.
        weight_decay: λ, decoupled; at least 0.
        aux_lr_ratio: as in `MuonPowerStep`; the paper has one learning rate for all.

    Raises:
        ValueError: an argument is out of range, the parameters have no names, or a parameter is
            sharded, has an unsupported dtype, or cannot be split into matrices.
    """

    buffers = ("exp_avg", "exp_avg_sq")
    counts_steps = True
    rules: ClassVar[dict[str, ArgumentRule]] = {"betas": betas(), "eps": at_least(0)}

    def __init__(
        self,
        named_parameters: NamedParameters,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        aux_lr_ratio: float = 1.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        groups = _param_groups(named_parameters, type(self).__name__, lr, aux_lr_ratio)
        super().__init__(groups, defaults)

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        theta, grad, (exp_avg, exp_avg_sq) = work
        adamw_(
            theta,
            grad,
            exp_avg,
            exp_avg_sq,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            step=step,
        )

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula:
        return adamw_formula(group, step)


def _param_groups(
    named_parameters: NamedParameters, optimizer: str, lr: float | Tensor, aux_lr_ratio: float
) -> list[dict[str, Any]]:
    """Group parameters as hidden matrices, stacks of two, other matrices and vectors."""
    if not _POSITIVE.accepts(aux_lr_ratio):
        raise ValueError(
            f"aux_lr_ratio is {aux_lr_ratio!r}, but it must be {_POSITIVE.requirement}"
        )
    matrices, pairs, others, vectors = [], [], [], []
    for named in named_parameters:
        if not _is_named(named):
            raise ValueError(
                f"{optimizer} takes named_parameters, (name, parameter) pairs as from"
                f" model.named_parameters(), but got a {type(named).__name__}"
            )
        name, param = named
        if param.ndim < 2:
            vectors.append(named)
        elif "embed" in name or "lm_head" in name:
            others.append(named)
        else:
            (pairs if "gate_up_proj" in name else matrices).append(named)
    # An invalid lr is left as it is, so that the error names it.
    has_own = aux_lr_ratio != 1 and learning_rate().accepts(lr)
    aux = {"lr": lr * aux_lr_ratio} if has_own else {}
    groups = [
        {"params": matrices, "is_matrix": True, "stacked": 1},
        {"params": pairs, "is_matrix": True, "stacked": 2},
        {"params": others, "is_matrix": False} | aux,
        {"params": vectors, "is_matrix": False} | aux,
    ]
    return [group for group in groups if group["params"]]


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], Tensor)
    )
