"""A fast approximation of Φ_β for compiled kernels, from arithmetic and bit operations.

The power function of a math library takes several times as long as the rest of the update. With
|x| = 2^e·(1+z), where z is in [√½ - 1, √2 - 1),

    |x|^β = 2^k · 2^f · (1+z)^β,    k + f = β·e,  k an integer,  f in [-½, ½],

and two short, independent polynomials approximate 2^f and (1+z)^β. The relative error is below 2e-6
for all floats, including subnormal ones. Zeros, infinities and NaN are exact.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

# Largest β. k is added to the exponent bits of the result, which must stay a normal float. The
# smallest subnormal is 2^-149, so 149·β must stay well below 126.
MAX_BETA = 0.75

Z_RANGE = (math.sqrt(0.5) - 1, math.sqrt(2) - 1)
Z_DEGREE = 6
F_DEGREE = 5

MANTISSA_BITS = 23
SQRT_HALF = 0x3F3504F3  # bits of √½ in fp32
INFINITY = 0x7F800000  # bits of +inf in fp32


def fast_signed_power(x: Tensor, coefficients: Tensor) -> Tensor:
    """Approximate `powerstep.signed_power`, Φ_β(x), with a relative error below 2e-6.

    This function is meant to be compiled. Run eagerly, it is not faster than `signed_power`.

    Args:
        x: any shape, fp32.
        coefficients: fp32; `power_coefficients(beta)` along the first dimension, with beta in
            (0, MAX_BETA]. The other dimensions, if any, must broadcast to the shape of `x`.

    Returns:
        fp32, the shape of `x`.
    """
    magnitude = x.abs()
    bits = magnitude.view(torch.int32)
    # Take the square root first: that of a subnormal is normal, so subnormals need no special case.
    root = torch.sqrt(magnitude).view(torch.int32)
    exponent = (root - SQRT_HALF) & -(1 << MANTISSA_BITS)  # 2^23·e: e in the exponent bits
    z = (root - exponent).view(torch.float32) - 1

    exponent = exponent.float()
    high = exponent * coefficients[0]  # exact, see power_coefficients
    k = torch.round(high)
    f = exponent * coefficients[1] + (high - k)
    f_coefficients, z_coefficients = coefficients[2 : 3 + F_DEGREE], coefficients[3 + F_DEGREE :]
    result = (_polynomial(f_coefficients, f) * _polynomial(z_coefficients, z)).view(torch.int32)
    result = result + (k * 2.0**MANTISSA_BITS).to(torch.int32)
    # Zeros, infinities and NaN are returned unchanged. `bits` is not negative, so the sum wraps
    # around for all values except 0, and a single comparison tests 0 < bits < INFINITY.
    is_finite = bits + 0x7FFFFFFF < INFINITY - 1 - 2**31
    result = torch.where(is_finite, result, bits)
    return (result | (x.view(torch.int32) & -(2**31))).view(torch.float32)


@functools.cache
def power_coefficients(beta: float) -> tuple[float, ...]:
    """Return the coefficients of `fast_signed_power` for β.

    They are β·2^-23 as a sum of two numbers, the first with so few bits that its product with an
    exponent is exact, followed by the polynomials for 2^f and for (1+z)^β, lowest degree first.
    """
    beta = 2 * beta  # |x|^β = (√|x|)^(2β)
    mantissa, exponent = math.frexp(beta)
    high = math.ldexp(round(mantissa * 2**12), exponent - 12)
    return (
        math.ldexp(high, -MANTISSA_BITS),
        math.ldexp(beta - high, -MANTISSA_BITS),
        *_fit(lambda f: 2**f, -0.5, 0.5, F_DEGREE),
        *_fit(lambda z: (1 + z) ** beta, *Z_RANGE, Z_DEGREE),
    )


def _fit(function: Callable[[Tensor], Tensor], low: float, high: float, degree: int) -> list[float]:
    """Interpolate at Chebyshev nodes, which is close to the best polynomial of that degree."""
    angles = (torch.arange(degree + 1, dtype=torch.float64) + 0.5) * math.pi / (degree + 1)
    nodes = (low + high) / 2 + (high - low) / 2 * torch.cos(angles)
    powers = nodes.unsqueeze(1) ** torch.arange(degree + 1)
    return torch.linalg.solve(powers, function(nodes)).tolist()


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Evaluate a polynomial, coefficients lowest degree first, with Horner's rule."""
    value = coefficients[-1]
    for i in range(len(coefficients) - 2, -1, -1):
        value = value * x + coefficients[i]
    return value
