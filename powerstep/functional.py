"""The signed power transform and the PowerStep update, as functions of plain tensors."""

from torch import Tensor


def signed_power(x: Tensor, beta: float) -> Tensor:
    """Return Φ_β(x) = sign(x)·|x|^β, elementwise (arXiv:2605.10335, Algorithm 1).

    Φ_β(0) = 0 for every β, β = 0 included; Φ_0 is the sign and Φ_1 the identity, both exactly.

    Args:
        x: any shape, a floating dtype; left unmodified.
        beta: the exponent, in [0, 1].

    Returns:
        A new tensor with the shape and dtype of `x`.
    """
    return x.abs().pow_(beta).mul_(x.sign())


def powerstep_(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    lr: float,
    gamma: float,
    beta: float,
    weight_decay: float,
) -> None:
    """Take one PowerStep on `param` and its `momentum`, in place (arXiv:2605.10335, Algorithm 1).

        m ← γ·m + g
        θ ← θ - η·(Φ_β(m) + λ·θ)

    The gradient enters the momentum with weight 1 and nothing is bias-corrected. The decay is
    decoupled and acts on the old θ.

    Args:
        param: θ, any shape and floating dtype; updated in place.
        grad: g, the shape of `param`, a floating dtype; left unmodified.
        momentum: m, the shape of `param`, fp32; updated in place.
        lr: η, the learning rate.
        gamma: γ, the momentum's decay.
        beta: β, the exponent of Φ_β.
        weight_decay: λ.
    """
    momentum.mul_(gamma).add_(grad)
    # The arithmetic is fp32 whatever the parameter's dtype; only the result is rounded to it.
    theta = param.float()
    theta = theta * (1 - lr * weight_decay) if weight_decay else theta
    param.copy_(theta.sub(signed_power(momentum, beta), alpha=lr))
