"""A fast approximation of |x|^β for the C kernels, from arithmetic and bit operations.

The power function of a math library takes several times as long as the rest of the update. With
|x| = 2^e·(1+z), where z is in [√½ - 1, √2 - 1),

    |x|^β = 2^k · 2^f · (1+z)^β,    k + f = β·e,  k an integer,  f in [-½, ½],

and two short, independent polynomials approximate 2^f and (1+z)^β. The relative error is below 2e-6
for all floats up to 2^104, including subnormal ones. Above 2^104, the power of 2^104 is returned.
Zeros, infinities and NaN are exact.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

SCALE = 24
Z_RANGE = (math.sqrt(0.5) - 1, math.sqrt(2) - 1)
Z_DEGREE = 6
F_DEGREE = 5


@functools.cache
def power_coefficients(beta: float) -> tuple[float, ...]:
    """Return β·2^-23, the polynomials of 2^f and of (1+z)^β, lowest degree first, and a rest.

    The rest is what the first number loses when it is rounded to fp32.

    Args:
        beta: the exponent, in (0, 1).
    """
    factor = 2 ** (-SCALE * beta)  # the kernel multiplies |x| by 2^SCALE first
    scaled = math.ldexp(beta, -23)  # the kernel has e·2^23, the exponent in the bits of a float
    return (
        scaled,
        *_fit(lambda f: 2**f, -0.5, 0.5, F_DEGREE),
        *_fit(lambda z: factor * (1 + z) ** beta, *Z_RANGE, Z_DEGREE),
        scaled - torch.tensor(scaled, dtype=torch.float32).item(),
    )


def _fit(function: Callable[[Tensor], Tensor], low: float, high: float, degree: int) -> list[float]:
    """Interpolate at Chebyshev nodes, which is close to the best polynomial of that degree."""
    angles = (torch.arange(degree + 1, dtype=torch.float64) + 0.5) * math.pi / (degree + 1)
    nodes = (low + high) / 2 + (high - low) / 2 * torch.cos(angles)
    powers = nodes.unsqueeze(1) ** torch.arange(degree + 1)
    return torch.linalg.solve(powers, function(nodes)).tolist()
