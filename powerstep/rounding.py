"""Stochastic rounding of fp32 to bf16, in plain torch operations."""

import torch
from torch import Tensor

DISCARDED_BITS = 16  # of fp32's mantissa: bf16 is the upper half of an fp32


def stochastic_round_(out: Tensor, x: Tensor) -> None:
    """Round `x` up or down to a neighbour in bf16, each as probable as `x` is near to it.

    The expectation of the result is `x`, so that steps far below the spacing of bf16 numbers add
    up. What bf16 represents stays as it is, infinities and NaN included. Draws from torch's
    default generator of the device, so `torch.manual_seed` repeats it.

    Args:
        out: bf16, the shape of `x`; written.
        x: fp32; left unmodified.
    """
    out.copy_(stochastically_rounded(x, rounding_noise(x)))


def rounding_noise(like: Tensor) -> Tensor:
    """Draw what `stochastically_rounded` needs: int32 in [0, 2^16), in the shape of `like`."""
    return torch.randint_like(like, 2**DISCARDED_BITS, dtype=torch.int32)


def stochastically_rounded(x: Tensor, noise: Tensor) -> Tensor:
    """Return fp32 `x` with noise added below bf16's last bit, and cut off there."""
    bits = (x.view(torch.int32) + noise) & -(2**DISCARDED_BITS)
    # Noise could carry a NaN's mantissa over into the sign; an infinity's is all zeros. NaN is told
    # by a comparison, since isnan would make a compiled kernel several times as slow.
    return torch.where(x == x, bits.view(torch.float32), x)
