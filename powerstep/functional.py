"""The signed power transform and the updates of PowerStep and AdamW, on plain tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def signed_power(x: Tensor, beta: float) -> Tensor:
    """Return Φ_β(x) = sign(x)·|x|^β, elementwise (arXiv:2605.10335, Algorithm 1).

    Φ_β(0) = 0 for every β, including β = 0. Φ_0 is exactly the sign and Φ_1 exactly the identity.
    Φ_β(±inf) = ±inf for β > 0 and ±1 for β = 0. Φ_β(NaN) = NaN for every β.

    Args:
        x: any shape, a floating dtype; left unmodified.
        beta: the exponent, in [0, 1].

    Returns:
        A new tensor with the shape and dtype of `x`.
    """
    if beta == 0:
        return torch.where(x == x, x.sign(), x)  # torch.sign(NaN) is 0
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

    The gradient has weight 1 in the momentum, and there is no bias correction. The weight decay is
    decoupled and uses the old θ. This function is the reference for the foreach and the compiled
    paths.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        grad: g, the shape of `param`, a floating dtype; left unmodified.
        momentum: m, the shape of `param`, fp32; updated in place.
        lr: η, the learning rate, a number or a 0-dimensional tensor.
        gamma: γ, the decay factor of the momentum.
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

    The weight decay is multiplied by the learning rate, as in `torch.optim.AdamW`.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        grad: g, the shape of `param`, fp32; left unmodified.
        exp_avg: m, the shape of `param`, fp32; updated in place.
        exp_avg_sq: v, the shape of `param`, fp32; updated in place.
        lr: η, the learning rate, a number or a 0-dimensional tensor.
        betas: β1 and β2, each in [0, 1).
        eps: ε.
        weight_decay: λ, decoupled.
        step: t, the step number, counted from 1; a number or a 0-dimensional tensor.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    adamw_step_(
        param,
        exp_avg,
        exp_avg_sq,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        step=step,
    )


def adamw_step_(
    param: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: int | Tensor,
) -> None:
    """Update `param` in place from AdamW's two moments, already averaged in this step.

    θ ← (1 - η·λ)·θ - η·m̂ / (√v̂ + ε), where m̂ = m / (1 - β1ᵗ) and v̂ = v / (1 - β2ᵗ).

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        exp_avg: m, the shape of `param`, fp32; left unmodified.
        exp_avg_sq: v, the shape of `param`, fp32; left unmodified.
        lr: as in `adamw_`.
        betas: as in `adamw_`.
        eps: as in `adamw_`.
        weight_decay: as in `adamw_`.
        step: as in `adamw_`.
    """
    beta1, beta2 = betas
    denominator = exp_avg_sq.div(1 - beta2**step).sqrt_().add_(eps)
    param.mul_(1 - lr * weight_decay)
    step_along_(param, exp_avg / denominator, lr / (1 - beta1**step))


def step_along_(param: Tensor, update: Tensor, lr: float | Tensor) -> None:
    """Subtract an update from `param` in place: θ ← θ - η·u.

    Args:
        param: θ, any shape, fp32 or fp64; updated in place.
        update: u, the shape of `param`, fp32; left unmodified.
        lr: η, a number or a 0-dimensional tensor. The value of a tensor is never read, because
            that would synchronise with its device. Under torch.compile a number is not read either,
            because each value would be compiled into a graph of its own.
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
    """Apply `powerstep_` to several tensors at once, with a few kernel launches for all of them.

    Args:
        params: the tensors θ; all fp32 or all fp64, on one device; updated in place.
        grads: the gradients g, a floating dtype; left unmodified.
        momentums: the momentums m, fp32; updated in place.
        lr: as in `powerstep_`.
        gamma: as in `powerstep_`.
        beta: as in `powerstep_`.
        weight_decay: as in `powerstep_`.
    """
    torch._foreach_mul_(momentums, gamma)
    torch._foreach_add_(momentums, grads)
    if beta == 0:
        updates = [signed_power(momentum, beta) for momentum in momentums]
    else:
        updates = torch._foreach_abs(momentums)
        torch._foreach_pow_(updates, beta)
        for update, momentum in zip(updates, momentums, strict=True):
            update.copysign_(momentum)  # copysign_ has no foreach version
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    if isinstance(lr, Tensor):  # see step_along_
        updates = [update.to(param.dtype) for update, param in zip(updates, params, strict=True)]
        torch._foreach_sub_(params, torch._foreach_mul(updates, lr))
    else:
        torch._foreach_add_(params, updates, alpha=-lr)
