"""One step of many parameters with one call of a kernel."""

import functools
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from powerstep.kernels.c_kernel import CKernel
from powerstep.kernels.c_library import CompilerError
from powerstep.kernels.formula import DTYPES, LARGEST_BLOCK, Formula, Kernel, Variant, power_kind


class Kind(NamedTuple):
    """What decides which kernel can update a parameter.

    Attributes:
        device: device of the parameter.
        param_dtype: its dtype.
        grad_dtype: dtype of its gradient.
        is_contiguous: whether both are contiguous, and not empty.
    """

    device: torch.device
    param_dtype: torch.dtype
    grad_dtype: torch.dtype
    is_contiguous: bool


def kind_of(param: Tensor, grad: Tensor) -> Kind:
    """Return the kind of a parameter. It must be quick: every step calls it for each of them."""
    is_contiguous = param.is_contiguous() and grad.is_contiguous() and param.numel() > 0
    # The constructor of a named tuple takes twice as long.
    return tuple.__new__(Kind, (param.device, param.dtype, grad.dtype, is_contiguous))


def kernel_for(
    kind: Kind, formula: Formula, buffers: tuple[str, ...], group: dict[str, Any]
) -> Kernel | None:
    """Return the kernel for parameters of one kind; None if there is none, or it fails to compile.

    Args:
        kind: the kind of the parameters.
        formula: the optimizer's formula; its numbers may have any values.
        buffers: names of the buffers.
        group: the parameter group.
    """
    precision = group["state_precision"]
    block_size = group["block_size"] if precision in ("int8", "int4") else 0
    if not (
        kind.is_contiguous
        and kind.device.type in ("cpu", "cuda")
        and {kind.param_dtype, kind.grad_dtype} <= DTYPES
        and block_size <= LARGEST_BLOCK
        and not (precision == "int4" and block_size % 2)  # a byte of codes may span two blocks
        # Triton's tiles have powers of two as sides.
        and not (kind.device.type == "cuda" and block_size & (block_size - 1))
    ):
        return None
    variant = Variant(
        formula=formula.text,
        numbers=tuple(formula.numbers),
        power=power_kind(formula.exponent),
        buffers=buffers,
        precision=precision,
        block_size=block_size,
        param_dtype=kind.param_dtype,
        grad_dtype=kind.grad_dtype,
        maximize=group["maximize"],
        stochastic=group["stochastic_rounding"] and kind.param_dtype == torch.bfloat16,
    )
    return _compiled(kind.device.type, variant)


@functools.cache
def _compiled(backend: str, variant: Variant) -> Kernel | None:
    """Return the kernel of a variant; warn and return None if it cannot be compiled."""
    try:
        if backend == "cpu":
            return CKernel(variant)
        from powerstep.kernels.triton_kernel import TritonKernel

        return TritonKernel(variant)
    except (CompilerError, OSError, ImportError) as error:
        warnings.warn(
            f"PowerStep uses its slower eager path because it cannot compile a kernel ({error});"
            " pass compiled=False to silence this warning",
            stacklevel=2,
        )
        return None
