"""The PowerStep update as a single kernel, compiled by torch.compile from torch operations.

One kernel serves parameters of all shapes: they are passed as a matrix with a fixed row length and
a dynamic number of rows. Hyperparameters are passed in a tensor, so that changing them never
recompiles.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from powerstep.fast_power import MAX_BETA, fast_signed_power, power_coefficients
from powerstep.functional import signed_power
from powerstep.pieces import Piece
from powerstep.quantization import max_code
from powerstep.rounding import rounding_noise, stochastically_rounded

ROW = 128  # elements per row; a power of two, so that it is a whole number of SIMD vectors
# Allow fused multiply-add, which is faster and rounds once instead of twice.
OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}


@dataclass(frozen=True)
class Variant:
    """The properties that a kernel is specialised for.

    Attributes:
        device: device type, as in `torch.device.type`.
        param_dtype: dtype of the parameter: fp32, bf16 or fp16.
        grad_dtype: dtype of the gradient.
        precision: precision of the stored momentum: "fp32", "bf16" or "int8".
        row: elements per row; for an int8 momentum the block size.
        transform: how Φ_β is computed, see `transform_name`.
        maximize: whether the gradient is negated.
        stochastic: whether the parameter is rounded stochastically.
        threads: number of torch threads that the kernel is compiled for.
    """

    device: str
    param_dtype: torch.dtype
    grad_dtype: torch.dtype
    precision: str
    row: int
    transform: str
    maximize: bool
    stochastic: bool
    threads: int


KERNEL_PRECISIONS = ("fp32", "bf16", "int8")
KERNEL_PARAM_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_ROW = 32  # elements; with shorter rows the overhead per row dominates

Kernel = Callable[..., None]


def transform_name(beta: float) -> str:
    """Return how a kernel computes Φ_β: "sign" (β = 0), "identity" (β = 1), "fast" or "power"."""
    if beta in (0, 1):
        return "identity" if beta else "sign"
    return "fast" if beta <= MAX_BETA else "power"


def row_length(group: dict[str, Any]) -> int:
    """Return the elements per row: the block size for an int8 momentum, else ROW."""
    return group["block_size"] if group["state_precision"] == "int8" else ROW


def kernel_numbers(group: dict[str, Any], device: torch.device) -> Tensor:
    """Return the numbers that a kernel reads: η, γ, 1 - η·λ, β, and `power_coefficients(β)`.

    Args:
        group: the parameter group; its lr is a number or a 0-dimensional tensor.
        device: the device of the parameters.

    Returns:
        fp32, shape (count, row) on a CPU, else (count, 1). Each number fills a row on a CPU because
        SIMD instructions can load a vector for free, but must broadcast a scalar first.
    """
    lr, beta = group["lr"], group["beta"]
    decay = 1 - lr * group["weight_decay"]
    numbers = torch.tensor(
        [float("nan"), group["gamma"], float("nan"), beta, *power_coefficients(beta)],
        dtype=torch.float32,
        device=device,
    )
    # Assign a tensor lr on its device: reading its value would synchronise with the device.
    numbers[0], numbers[2] = lr, decay
    row = row_length(group) if device.type == "cpu" else 1
    return numbers.unsqueeze(1).expand(-1, row).contiguous()


def step_rows(piece: Piece, numbers: Tensor) -> int:
    """Update the complete rows of a piece with a kernel; return how many elements were updated.

    Args:
        piece: a piece of a parameter of PowerStep.
        numbers: the result of `kernel_numbers`.

    Returns:
        The number of elements; 0 if the kernels do not support the piece or compiling fails.
    """
    param, grad, group = piece.param, piece.grad, piece.group
    precision = group["state_precision"]
    row = row_length(group)
    count = piece.numel // row
    is_covered = (
        precision in KERNEL_PRECISIONS
        and param.dtype in KERNEL_PARAM_DTYPES
        and param.ndim == 1
        and row >= MIN_ROW
        and count >= 2  # torch.compile specialises on dimensions of size 1
    )
    if not is_covered:
        return 0
    stochastic = group["stochastic_rounding"] and param.dtype == torch.bfloat16
    run = kernel(
        Variant(
            device=param.device.type,
            param_dtype=param.dtype,
            grad_dtype=grad.dtype,
            precision=precision,
            row=row,
            transform=transform_name(group["beta"]),
            maximize=group["maximize"],
            stochastic=stochastic,
            threads=torch.get_num_threads(),
        )
    )
    if run is None:
        return 0
    rows = piece.cut(0, count * row)
    param, grad = rows.param.view(count, row), rows.grad.view(count, row)
    (stored,) = rows.stored
    noise = rounding_noise(param) if stochastic else None
    if precision == "int8":
        # Convert codes outside the kernel: on x86 it would convert eight at a time, via the stack.
        codes, scales = stored
        decoded = codes.view(count, row).float()
        run(param, grad, numbers, noise, decoded, scales)
        codes.copy_(decoded.view(-1))
    else:
        run(param, grad, numbers, noise, stored[0].view(count, row))
    return count * row


@functools.cache
def kernel(variant: Variant) -> Kernel | None:
    """Compile the kernel of a variant and run it once; warn and return None if that fails.

    The arguments of a kernel are: the parameter and its gradient, shape (n, row) with n ≥ 2; the
    result of `kernel_numbers`; the rounding noise, int32, shape (n, row), or None; and the stored
    momentum. An fp32 or bf16 momentum is one tensor, shape (n, row). An int8 momentum is its codes,
    converted to fp32, shape (n, row), and its scales, shape (n,).
    """
    options = {name: OPTIONS[name] for name in OPTIONS if name in torch._inductor.list_options()}
    compiled = torch.compile(_kernel_function(variant), fullgraph=True, options=options)
    try:
        # All variants share one code object, and each counts towards its recompile limit.
        with torch._dynamo.config.patch(recompile_limit=1000):
            compiled(*_example_arguments(variant))
    except Exception as error:  # compilers fail in many ways; the eager path always works
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(
            "PowerStep uses its slower eager path because torch.compile does not work here"
            f" ({reason}); pass compiled=False to silence this warning",
            stacklevel=2,
        )
        return None
    return compiled


def _kernel_function(variant: Variant) -> Kernel:
    precision, maximize, stochastic = variant.precision, variant.maximize, variant.stochastic
    transform = variant.transform

    def powerstep_rows(
        param: Tensor, grad: Tensor, numbers: Tensor, noise: Tensor | None, *stored: Tensor
    ) -> None:
        lr, gamma, decay = numbers[0], numbers[1], numbers[2]
        momentum = stored[0].float()
        if precision == "int8":
            momentum = momentum * (stored[1] * (1 / max_code(8))).unsqueeze(1)
        grad = -grad.float() if maximize else grad.float()
        momentum = gamma * momentum + grad
        if transform == "sign":
            update = signed_power(momentum, 0)
        elif transform == "identity":
            update = momentum
        elif transform == "fast":
            update = fast_signed_power(momentum, numbers[4:])
        else:
            update = momentum.abs().pow(numbers[3]).copysign(momentum)
        theta = param.float() * decay - lr * update
        param.copy_(stochastically_rounded(theta, noise) if stochastic else theta)
        if precision == "int8":
            # The same as quantize_blockwise; one row is one block.
            scales = momentum.abs().amax(1)
            codes = (momentum / scales.unsqueeze(1) * max_code(8)).round()
            # Replace NaN by 0. On x86, a kernel would compute isnan one element at a time.
            stored[0].copy_(torch.where(codes == codes, codes, 0.0))
            stored[1].copy_(scales)
        else:
            stored[0].copy_(momentum)

    return powerstep_rows


def _example_arguments(variant: Variant) -> list[Tensor | None]:
    """Return example arguments whose number of rows is marked as dynamic."""
    shape = (64, variant.row)

    def rows(dtype: torch.dtype) -> Tensor:
        example = torch.zeros(shape, dtype=dtype, device=variant.device)
        torch._dynamo.mark_dynamic(example, 0)
        return example

    if variant.precision == "int8":
        scales = torch.zeros(shape[0], device=variant.device)
        torch._dynamo.mark_dynamic(scales, 0)
        stored = [rows(torch.float32), scales]
    else:
        stored = [rows({"fp32": torch.float32, "bf16": torch.bfloat16}[variant.precision])]
    group = {"state_precision": variant.precision, "block_size": variant.row}
    group |= {"lr": 0.0, "gamma": 0.0, "beta": 0.5, "weight_decay": 0.0}
    numbers = kernel_numbers(group, torch.device(variant.device))
    noise = rows(torch.int32) if variant.stochastic else None
    return [rows(variant.param_dtype), rows(variant.grad_dtype), numbers, noise, *stored]
