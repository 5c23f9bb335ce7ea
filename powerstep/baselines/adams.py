"""AdamS: Adam with a second moment from the momentum (Zhang et al., arXiv:2505.16363)."""

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, at_least, betas, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.baselines.adamw import adam_numbers
from powerstep.functional import step_along_
from powerstep.kernels.formula import Formula
from powerstep.pieces import Work


class AdamS(ElementwiseOptimizer):
    """AdamS (Zhang et al., arXiv:2505.16363), with one buffer.

        v ← β2·m² + (1-β2)·g²        with the momentum of the previous step
        m ← β1·m + (1-β1)·g
        θ ← (1-η·λ)·θ - η·m / (√v + ε)

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        betas: β1 and β2, each in [0, 1).
        eps: ε; at least 0.
        weight_decay: λ, decoupled; at least 0.
        bias_corrected: use the version of the authors of PowerStep: compute v from the updated
            momentum, and correct the bias of m and v as Adam does.

    Raises:
        ValueError: an argument is out of range, or a parameter has another dtype than fp32, fp64,
            bf16 or fp16.
    """

    buffers = ("exp_avg",)
    counts_steps = True
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "betas": betas(),
        "eps": at_least(0),
        "bias_corrected": one_of(True, False),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        bias_corrected: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_corrected": bias_corrected,
        }
        super().__init__(params, defaults)

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        theta, grad, (exp_avg,) = work
        (beta1, beta2), lr, corrected = group["betas"], group["lr"], group["bias_corrected"]
        if not corrected:
            square = exp_avg.square().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
        step_size = lr
        if corrected:
            square = exp_avg.square().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            square.div_(1 - beta2**step)
            step_size = lr / (1 - beta1**step)
        theta.mul_(1 - lr * group["weight_decay"])
        step_along_(theta, exp_avg / square.sqrt_().add_(group["eps"]), step_size)

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula:
        corrected = group["bias_corrected"]
        average = "exp_avg = beta1 * exp_avg + rest1 * grad"
        square = "square = beta2 * exp_avg * exp_avg + rest2 * grad * grad"
        lines = [average, square] if corrected else [square, average]
        lines += ["theta = decay * theta - step_size * exp_avg / (sqrt(square / correction) + eps)"]
        return Formula("\n".join(lines), adam_numbers(group, step, corrected=corrected))
