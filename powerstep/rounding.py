"""Stochastic rounding of fp32 to bf16, in plain torch operations."""

import torch
from torch import Tensor

DISCARDED_BITS = 16  # low mantissa bits of an fp32 number that bf16, its upper half, lacks


def stochastic_round_(out: Tensor, x: Tensor) -> None:
    """Round `x` up or down to bf16 at random, so that the expectation of the result is `x`.

    The nearer of the two bf16 neighbours is the more probable. Steps far below the spacing of bf16
    numbers thus add up. Values that bf16 represents exactly are unchanged, including infinities
    and NaN. The noise is from torch's default generator of the device; `torch.manual_seed` makes
    it reproducible.

    Args:
        out: bf16, the shape of `x`; written.
        x: fp32; left unmodified.
    """
    out.copy_(stochastically_rounded(x, rounding_noise(x)))


def rounding_noise(like: Tensor) -> Tensor:
    """Return uniform int32 noise in [0, 2^16) for `stochastically_rounded`, shaped like `like`."""
    return torch.randint_like(like, 2**DISCARDED_BITS, dtype=torch.int32)


def stochastically_rounded(x: Tensor, noise: Tensor) -> Tensor:
    """Return fp32 `x` plus noise below the last bit of bf16, truncated to the values of bf16."""
    bits = (x.view(torch.int32) + noise) & -(2**DISCARDED_BITS)
    # NaN is kept as it is: the noise could overflow its mantissa into the sign bit. An infinity is
    # safe, because its mantissa is 0. isnan would make a compiled kernel several times slower.
    return torch.where(x == x, bits.view(torch.float32), x)
