"""pbSGDM: SGD with momentum on power-transformed gradients (Zhou et al., IJCAI 2020)."""

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, between, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.functional import signed_power, step_along_
from powerstep.kernels.formula import Formula
from powerstep.pieces import Work

_DECOUPLED = """
    momentum = gamma * momentum + signed_power(grad)
    theta = decay * theta - lr * momentum
    """
_DECAY_IN_MOMENTUM = """
    momentum = gamma * momentum + signed_power(grad) + weight_decay * theta
    theta = theta - lr * momentum
    """


class PbSGDM(ElementwiseOptimizer):
    """Powered SGD with momentum (Zhou et al., "pbSGD", IJCAI 2020, Algorithm 2).

        m ← γ·m + Φ_β(g)
        θ ← θ - η·(m + λ·θ)

    pbSGDM transforms each gradient before accumulating it; PowerStep transforms the momentum.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        gamma: γ, the decay factor of the momentum, in [0, 1].
        beta: β, the exponent of the power transform, in [0, 1].
        weight_decay: λ; at least 0.
        decay_in_momentum: use the version of the authors of PowerStep, which accumulates the weight
            decay in m: m ← γ·m + Φ_β(g) + λ·θ and θ ← θ - η·m.

    Raises:
        ValueError: an argument is out of range, or a parameter has another dtype than fp32, fp64,
            bf16 or fp16.
    """

    buffers = ("momentum",)
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "gamma": between(0, 1),
        "beta": between(0, 1),
        "decay_in_momentum": one_of(True, False),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float = 0.9,
        beta: float = 0.1,
        weight_decay: float = 0.0,
        *,
        decay_in_momentum: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "beta": beta,
            "weight_decay": weight_decay,
            "decay_in_momentum": decay_in_momentum,
        }
        super().__init__(params, defaults)

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        theta, grad, (momentum,) = work
        lr, weight_decay = group["lr"], group["weight_decay"]
        momentum.mul_(group["gamma"]).add_(signed_power(grad, group["beta"]))
        if group["decay_in_momentum"]:
            momentum.add_(theta, alpha=weight_decay)
        else:
            theta.mul_(1 - lr * weight_decay)
        step_along_(theta, momentum, lr)

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula:
        lr, weight_decay = group["lr"], group["weight_decay"]
        numbers = {"lr": lr, "gamma": group["gamma"], "weight_decay": weight_decay}
        numbers |= {"decay": 1 - lr * weight_decay}
        text = _DECAY_IN_MOMENTUM if group["decay_in_momentum"] else _DECOUPLED
        return Formula(text, numbers, exponent=group["beta"])
