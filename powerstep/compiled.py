"""The PowerStep update as one kernel, made by torch.compile from plain torch operations.

One kernel serves parameters of every shape: it sees them as rows, of which only the number varies.
Numbers that change come in tensors, so that a change never recompiles.
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

ROW = 128  # elements; a power of two, so that no vector of the kernel is cut short
# Multiplications and additions may be fused: quicker, and rounded once instead of twice.
OPTIONS = {"cpp.enable_floating_point_contract_flag": "fast"}


@dataclass(frozen=True)
class Variant:
    """What a kernel is specialised for.

    Attributes:
        device: its type, as in `torch.device.type`.
        param_dtype: of the parameter, fp32, bf16 or fp16.
        grad_dtype: of the gradient.
        precision: of the momentum.
        row: elements a row; the block size of an int8 momentum.
        transform: "sign" of β = 0, "identity" of 1, "fast" or "power" of what lies between.
        maximize: whether the gradient's sign is changed.
        stochastic: whether the parameter is rounded stochastically.
        threads: of torch, which the kernel is made for.
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
MIN_ROW = 32  # of shorter rows, a kernel would spend its time between them

Kernel = Callable[..., None]


def transform_name(beta: float) -> str:
    """Name the way in which a kernel computes Φ_β."""
    if beta in (0, 1):
        return "identity" if beta else "sign"
    return "fast" if beta <= MAX_BETA else "power"


def row_length(group: dict[str, Any]) -> int:
    """Return the elements of a row: a block where each has a scale."""
    return group["block_size"] if group["state_precision"] == "int8" else ROW


def kernel_numbers(group: dict[str, Any], device: torch.device) -> Tensor:
    """Return what a kernel reads: η, γ, 1 - ηλ, β, and what the fast power function needs of β.

    Args:
        group: the parameter group, with lr a number or a tensor of no dimensions.
        device: of the parameters.

    Returns:
        fp32, shape (count, row) on a CPU, else (count, 1). The instructions of a CPU read a vector
        from memory along with their arithmetic, but have to spread a single number first.
    """
    lr, beta = group["lr"], group["beta"]
    decay = 1 - lr * group["weight_decay"]
    numbers = torch.tensor(
        [float("nan"), group["gamma"], float("nan"), beta, *power_coefficients(beta)],
        dtype=torch.float32,
        device=device,
    )
    # A tensor stays on its device: to read it here would be to wait for the device.
    numbers[0], numbers[2] = lr, decay
    row = row_length(group) if device.type == "cpu" else 1
    return numbers.unsqueeze(1).expand(-1, row).contiguous()


def step_rows(piece: Piece, numbers: Tensor) -> int:
    """Take the step of a piece's whole rows, and return how many elements they have.

    Args:
        piece: of PowerStep.
        numbers: of `kernel_numbers`.

    Returns:
        0 for a piece that no kernel is made for, or where none can be made.
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
        and count >= 2  # a dimension of size 1 is a kernel of its own to torch.compile
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
        # Codes are converted out here: a kernel for x86 would do it eight at a time, on the stack.
        codes, scales = stored
        decoded = codes.view(count, row).float()
        run(param, grad, numbers, noise, decoded, scales)
        codes.copy_(decoded.view(-1))
    else:
        run(param, grad, numbers, noise, stored[0].view(count, row))
    return count * row


@functools.cache
def kernel(variant: Variant) -> Kernel | None:
    """Compile a variant and try it out; None, with a warning, where that does not work.

    The kernel takes rows, shape (n, row) with n ≥ 2: the parameter and its gradient; the numbers of
    `kernel_numbers`; noise, int32, or None; then the momentum as stored: one tensor in fp32 or
    bf16; for int8 its codes in fp32, and its scales, shape (n,).
    """
    options = {name: OPTIONS[name] for name in OPTIONS if name in torch._inductor.list_options()}
    compiled = torch.compile(_kernel_function(variant), fullgraph=True, options=options)
    try:
        # The variants share one definition, and each counts against its limit.
        with torch._dynamo.config.patch(recompile_limit=1000):
            compiled(*_example_arguments(variant))
    except Exception as error:  # whatever a compiler does not like, the eager path does
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(
            "PowerStep takes its eager path, which is slower, because torch.compile does not work"
            f" here ({reason}); compiled=False silences this",
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
            # As quantize_blockwise does it; one row is one block.
            scales = momentum.abs().amax(1)
            codes = (momentum / scales.unsqueeze(1) * max_code(8)).round()
            # NaN is told by a comparison: a kernel for x86 does isnan one element at a time.
            stored[0].copy_(torch.where(codes == codes, codes, 0.0))
            stored[1].copy_(scales)
        else:
            stored[0].copy_(momentum)

    return powerstep_rows


def _example_arguments(variant: Variant) -> list[Tensor | None]:
    """Make arguments whose number of rows is marked as one that varies."""
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
