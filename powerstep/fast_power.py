"""Φ_β from multiplications, additions and the bits of the numbers, for compiled kernels.

A power function of a mathematical library takes several times as long as the rest of the update.
With |x| = 2^e·(1+z), where z is in [√½ - 1, √2 - 1),

    |x|^β = 2^k · 2^f · (1+z)^β,    k + f = β·e,  k an integer,  f in [-½, ½],

and two short polynomials that do not wait for each other give 2^f and (1+z)^β. The relative error
is below 2e-6 for all floats, subnormal ones included; zeros, infinities and NaN come out exactly.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

# The exponent of the result is added to its bits, which must not leave the normal floats:
# 149·β, 149 being the exponent of the smallest subnormal, stays well below 126.
MAX_BETA = 0.75

Z_RANGE = (math.sqrt(0.5) - 1, math.sqrt(2) - 1)
Z_DEGREE = 6
F_DEGREE = 5

MANTISSA_BITS = 23
SQRT_HALF = 0x3F3504F3  # the bits of √½
INFINITY = 0x7F800000


def fast_signed_power(x: Tensor, coefficients: Tensor) -> Tensor:
    """Return Φ_β(x) of `powerstep.signed_power`, within a relative error of 2e-6.

    Meant to be compiled: run eagerly it is no quicker than `signed_power`.

    Args:
        x: any shape, fp32.
        coefficients: fp32, those of `power_coefficients(beta)` along the first dimension, with beta
            in (0, MAX_BETA]; each a number, or of a shape that broadcasts to that of `x`.

    Returns:
        fp32, the shape of `x`.
    """
    magnitude = x.abs()
    bits = magnitude.view(torch.int32)
    # The square root of a subnormal is normal, so that no float needs to be told apart.
    root = torch.sqrt(magnitude).view(torch.int32)
    exponent = (root - SQRT_HALF) & -(1 << MANTISSA_BITS)  # e, in place at 2^23·e
    z = (root - exponent).view(torch.float32) - 1

    exponent = exponent.float()
    high = exponent * coefficients[0]  # exactly, see power_coefficients
    k = torch.round(high)
    f = exponent * coefficients[1] + (high - k)
    f_coefficients, z_coefficients = coefficients[2 : 3 + F_DEGREE], coefficients[3 + F_DEGREE :]
    result = (_polynomial(f_coefficients, f) * _polynomial(z_coefficients, z)).view(torch.int32)
    result = result + (k * 2.0**MANTISSA_BITS).to(torch.int32)
    # Zeros, infinities and NaN are their own powers. `bits` is not negative, so that the sum wraps
    # round for all but 0, and one comparison tells 0 < bits < INFINITY.
    is_finite = bits + 0x7FFFFFFF < INFINITY - 1 - 2**31
    result = torch.where(is_finite, result, bits)
    return (result | (x.view(torch.int32) & -(2**31))).view(torch.float32)


@functools.cache
def power_coefficients(beta: float) -> tuple[float, ...]:
    """Return what `fast_signed_power` needs to know of β.

    These are β·2^-23 in two summands, the first so short that its product with an exponent is
    exact, and the polynomials for 2^f and for (1+z)^β, lowest degree first.
    """
    beta = 2 * beta  # of the square root
    mantissa, exponent = math.frexp(beta)
    high = math.ldexp(round(mantissa * 2**12), exponent - 12)
    return (
        math.ldexp(high, -MANTISSA_BITS),
        math.ldexp(beta - high, -MANTISSA_BITS),
        *_fit(lambda f: 2**f, -0.5, 0.5, F_DEGREE),
        *_fit(lambda z: (1 + z) ** beta, *Z_RANGE, Z_DEGREE),
    )


def _fit(function: Callable[[Tensor], Tensor], low: float, high: float, degree: int) -> list[float]:
    """Interpolate at Chebyshev's nodes, which is near the best polynomial of that degree."""
    angles = (torch.arange(degree + 1, dtype=torch.float64) + 0.5) * math.pi / (degree + 1)
    nodes = (low + high) / 2 + (high - low) / 2 * torch.cos(angles)
    powers = nodes.unsqueeze(1) ** torch.arange(degree + 1)
    return torch.linalg.solve(powers, function(nodes)).tolist()


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Evaluate by Horner's rule, lowest degree first."""
    value = coefficients[-1]
    for i in range(len(coefficients) - 2, -1, -1):
        value = value * x + coefficients[i]
    return value
