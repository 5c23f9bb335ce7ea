"""The signed power transform and the updates of PowerStep and AdamW, on plain tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def signed_power(x: Tensor, beta: float) -> Tensor:
    """Return Φ_β(x) = sign(x)·|x|^β, elementwise (arXiv:2605.10335, Algorithm 1).

    Φ_β(0) = 0 for every β, β = 0 included; Φ_0 is the sign and Φ_1 the identity, both exactly.
    Φ_β(±inf) = ±inf for β > 0 and ±1 for β = 0; NaN stays NaN for every β.

    Args:
        x: any shape, a floating dtype; left unmodified.
        beta: the exponent, in [0, 1].

    Returns:
        A new tensor with the shape and dtype of `x`.
    """
    if beta == 0:
        return torch.where(x == x, x.sign(), x)  # torch's sign of NaN is 0
    return x.abs().pow_(beta).copysign_(x)


def powerstep_(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    lr: float | Tensor,
    gamma: float,
    beta: float,
    weight_decay: float,
) -> None:
    """Take one PowerStep on `param` and its `momentum`, in place (arXiv:2605.10335, Algorithm 1).

        m ← γ·m + g
        θ ← θ - η·(Φ_β(m) + λ·θ)

    The gradient enters the momentum with weight 1 and nothing is bias-corrected. The decay is
    decoupled and acts on the old θ. This is the definition that the other paths are held to.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        grad: g, the shape of `param`, a floating dtype; left unmodified.
        momentum: m, the shape of `param`, fp32; updated in place.
        lr: η, the learning rate, a number or a tensor of no dimensions.
        gamma: γ, the momentum's decay.
        beta: β, the exponent of Φ_β.
        weight_decay: λ.
    """
    momentum.mul_(gamma).add_(grad)
    if weight_decay:
        param.mul_(1 - lr * weight_decay)
    step_along_(param, signed_power(momentum, beta), lr)


def adamw_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: int | Tensor,
) -> None:
    """Take one AdamW step on `param` and its two moments, in place (arXiv:1711.05101, Algorithm 2).

        m ← β1·m + (1-β1)·g
        v ← β2·v + (1-β2)·g²
        θ ← (1-η·λ)·θ - η·m / (1-β1^t) / (√(v / (1-β2^t)) + ε)

    The decay is multiplied by the learning rate, as `torch.optim.AdamW` does.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        grad: g, the shape of `param`, fp32; left unmodified.
        exp_avg: m, the shape of `param`, fp32; updated in place.
        exp_avg_sq: v, the shape of `param`, fp32; updated in place.
        lr: η, the learning rate, a number or a tensor of no dimensions.
        betas: β1 and β2, each in [0, 1).
        eps: ε.
        weight_decay: λ, decoupled.
        step: t, which counts from 1; a number or a tensor of no dimensions.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = exp_avg_sq.div(1 - beta2**step).sqrt_().add_(eps)
    param.mul_(1 - lr * weight_decay)
    step_along_(param, exp_avg / denominator, lr / (1 - beta1**step))


def step_along_(param: Tensor, update: Tensor, lr: float | Tensor) -> None:
    """Take the step θ ← θ - η·u on `param`, in place.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        update: u, the shape of `param`, fp32; left unmodified.
        lr: η, a number or a tensor of no dimensions. A tensor is never read, which would be to wait
            for its device; nor is a number in a graph of torch.compile, which would be another
            graph for each.
    """
    if isinstance(lr, Tensor) or torch.compiler.is_compiling():
        param.sub_(update.to(param.dtype) * lr)
    else:
        param.sub_(update, alpha=lr)


def foreach_powerstep_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentums: Sequence[Tensor],
    *,
    lr: float | Tensor,
    gamma: float,
    beta: float,
    weight_decay: float,
) -> None:
    """Do what `powerstep_` does to each of several tensors, in a few launches for all of them.

    Args:
        params: θ of each tensor; all fp32 or all fp64, on one device; updated in place.
        grads: g of each; left unmodified.
        momentums: m of each, fp32; updated in place.
        lr: as of `powerstep_`.
        gamma: as of `powerstep_`.
        beta: as of `powerstep_`.
        weight_decay: as of `powerstep_`.
    """
    torch._foreach_mul_(momentums, gamma)
    torch._foreach_add_(momentums, grads)
    if beta == 0:
        updates = [signed_power(momentum, beta) for momentum in momentums]
    else:
        updates = torch._foreach_abs(momentums)
        torch._foreach_pow_(updates, beta)
        for update, momentum in zip(updates, momentums, strict=True):
            update.copysign_(momentum)  # has no foreach kernel
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    if isinstance(lr, Tensor):  # see step_along_
        updates = [update.to(param.dtype) for update, param in zip(updates, params, strict=True)]
        torch._foreach_sub_(params, torch._foreach_mul(updates, lr))
    else:
        torch._foreach_add_(params, updates, alpha=-lr)
