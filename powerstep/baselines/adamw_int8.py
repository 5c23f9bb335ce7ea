"""AdamW with naively quantised moments: the counter-example of arXiv:2605.10335, figure 4."""

from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, at_least, betas, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.baselines.adamw import adamw_formula
from powerstep.functional import adamw_step_
from powerstep.kernels.formula import Formula
from powerstep.pieces import Work


class NaiveAdamWInt8(ElementwiseOptimizer):
    """AdamW (arXiv:1711.05101) with both moments stored in int8 as PowerStep stores its momentum.

    Each step computes with full-precision moments and quantises them afterwards (arXiv:2605.10335,
    section 4 and figure 4). A second moment that is small compared with the largest in its block
    becomes 0, its element then takes a huge step, and training collapses. This class exists to
    demonstrate that. To save memory with Adam, use a quantisation designed for it, such as
    `AdamW8bit` of bitsandbytes or torchao.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        betas: β1 and β2, each in [0, 1).
        eps: ε; at least 0.
        weight_decay: λ, decoupled; at least 0.
        block_size: elements that share one scale; at least 1.

    Raises:
        ValueError: an argument is out of range, or a parameter has another dtype than fp32, fp64,
            bf16 or fp16.
    """

    buffers = ("exp_avg", "exp_avg_sq")
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "betas": betas(),
        "eps": at_least(0),
        "state_precision": one_of("int8"),
    }
    counts_steps = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        block_size: int = 128,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "state_precision": "int8",
            "block_size": block_size,
        }
        super().__init__(params, defaults)

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        theta, grad, (exp_avg, exp_avg_sq) = work
        beta1, beta2 = group["betas"]
        # Not lerp_, as in functional.adamw_: its last bits differ from those of the kept results.
        exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        adamw_step_(
            theta,
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
