"""Stacey(p,2): accelerated ℓp steepest descent (Luo et al., arXiv:2506.06606)."""

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, at_least, betas, between, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.functional import step_along_
from powerstep.kernels.formula import Formula
from powerstep.pieces import Work

_AS_PUBLISHED = """
    correction = beta1 * momentum + rest1 * grad
    momentum = beta2 * momentum + rest2 * grad
    dual = dual - alpha * correction
    moved = theta - lr * correction / signed_power(abs(correction) + eps)
    theta = moved + tau * (dual - moved) - shrinkage * theta
    """
_WITH_DUAL_IN_DIRECTION = """
    momentum = beta2 * momentum + rest2 * grad
    correction = beta1 * momentum + rest1 * grad
    dual = dual - alpha * correction
    direction = rest_tau * correction / (signed_power(abs(correction)) + eps) + tau * dual
    theta = theta - shrinkage * theta - lr * direction
    """


class Stacey(ElementwiseOptimizer):
    """Stacey(p,2) (Luo et al., arXiv:2506.06606, Algorithm 2), with two buffers, m and z.

    z is initialised to θ_0.

        c ← β1·m + (1-β1)·g
        z ← z - α·c
        y ← θ - η·c·(|c| + ε)^((2-p)/(p-1))
        θ ← τ·z + (1-τ)·y - η·λ·θ
        m ← β2·m + (1-β2)·g

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        betas: β1 and β2, each in [0, 1).
        alpha: α, the step size of z; at least 0.
        tau: τ, the weight of z, in [0, 1].
        p: the exponent of the ℓp norm; at least 2.
        eps: ε; at least 0.
        weight_decay: λ; at least 0.
        dual_in_direction: use the version of the authors of PowerStep. In it, z starts at 0, m is
            updated before c is computed, and z is part of the direction:
            θ ← (1-η·λ)·θ - η·(τ·z + (1-τ)·c / (|c|^((p-2)/(p-1)) + ε)).

    Raises:
        ValueError: an argument is out of range, or a parameter has another dtype than fp32, fp64,
            bf16 or fp16.
    """

    buffers = ("momentum", "dual")
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "betas": betas(),
        "alpha": at_least(0),
        "tau": between(0, 1),
        "p": at_least(2),
        "eps": at_least(0),
        "dual_in_direction": one_of(True, False),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.99),
        alpha: float = 0.1,
        tau: float = 0.001,
        p: float = 11.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        dual_in_direction: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "tau": tau,
            "p": p,
            "eps": eps,
            "weight_decay": weight_decay,
            "dual_in_direction": dual_in_direction,
        }
        super().__init__(params, defaults)

    def _initial_value(self, param: Tensor, name: str, group: dict[str, Any]) -> Tensor | None:
        return param if name == "dual" and not group["dual_in_direction"] else None

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula | None:
        (beta1, beta2), lr, p = group["betas"], group["lr"], group["p"]
        numbers = {
            "lr": lr,
            "beta1": beta1,
            "rest1": 1 - beta1,
            "beta2": beta2,
            "rest2": 1 - beta2,
            "alpha": group["alpha"],
            "tau": group["tau"],
            "rest_tau": 1 - group["tau"],
            "eps": group["eps"],
            "shrinkage": lr * group["weight_decay"],
        }
        text = _WITH_DUAL_IN_DIRECTION if group["dual_in_direction"] else _AS_PUBLISHED
        # For p = 2 the divisor is 1, also where it would be 0^0.
        return Formula(text, numbers, exponent=(p - 2) / (p - 1)) if p > 2 else None

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        if group["dual_in_direction"]:
            _step_with_dual_in_direction(work, group)
        else:
            _step_as_published(work, group)


def _step_as_published(work: Work, group: dict[str, Any]) -> None:
    theta, grad, (momentum, dual) = work
    (beta1, beta2), lr, p = group["betas"], group["lr"], group["p"]
    correction = momentum.mul(beta1).add_(grad, alpha=1 - beta1)
    momentum.mul_(beta2).add_(grad, alpha=1 - beta2)
    dual.sub_(correction, alpha=group["alpha"])
    direction = correction.abs().add_(group["eps"]).pow_((2 - p) / (p - 1)).mul_(correction)
    decay = theta * (lr * group["weight_decay"])
    step_along_(theta, direction, lr)
    theta.lerp_(dual.to(theta.dtype), group["tau"])  # exactly θ if both are θ
    theta.sub_(decay)


def _step_with_dual_in_direction(work: Work, group: dict[str, Any]) -> None:
    theta, grad, (momentum, dual) = work
    (beta1, beta2), lr, p = group["betas"], group["lr"], group["p"]
    momentum.mul_(beta2).add_(grad, alpha=1 - beta2)
    correction = momentum.mul(beta1).add_(grad, alpha=1 - beta1)
    dual.sub_(correction, alpha=group["alpha"])
    divisor = correction.abs().pow_((p - 2) / (p - 1)).add_(group["eps"])
    direction = correction.div_(divisor).mul_(1 - group["tau"]).add_(dual, alpha=group["tau"])
    theta.mul_(1 - lr * group["weight_decay"])
    step_along_(theta, direction, lr)
