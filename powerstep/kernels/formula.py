"""An optimizer's update as text, the variant that a kernel is generated for, and kernels' base."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CPU = torch.device("cpu")
DTYPES = {torch.float32, torch.bfloat16, torch.float16}  # of parameters and gradients
# Larger quantisation blocks would not fit in a thread's stack.
LARGEST_BLOCK = 4096


class Formula(NamedTuple):
    """The update of one element, in statements that are valid C and valid Python.

    Attributes:
        text: one assignment a line. The names `theta`, `grad`, those of the buffers and those of
            the numbers are given; assigning to `theta` or a buffer updates it. The functions are
            sqrt, abs and signed_power (Φ, see `powerstep.signed_power`).
        numbers: the hyperparameters in `text`, by name.
        exponent: the exponent of signed_power, in [0, 1].
    """

    text: str
    numbers: dict[str, float | Tensor]
    exponent: float = 1.0


def power_kind(exponent: float) -> str:
    """Return how a kernel computes the signed power: "sign", "identity", "power" or "wide"."""
    if exponent in (0, 1):
        return "identity" if exponent else "sign"
    # With a larger exponent, the power of a subnormal number could be subnormal.
    return "power" if exponent <= 0.5 else "wide"


@dataclass(frozen=True)
class Variant:
    """Everything that a kernel is generated for. Hyperparameters are arguments of the kernel.

    Attributes:
        formula: the text of the formula.
        numbers: names of the hyperparameters, in the order of the kernel's arguments.
        power: see `power_kind`.
        buffers: names of the buffers.
        precision: precision of the stored buffers: fp32, bf16, int8 or int4.
        block_size: elements that share a scale of a quantised buffer; 0 if it is not quantised.
        param_dtype: fp32, bf16 or fp16.
        grad_dtype: fp32, bf16 or fp16.
        maximize: whether the gradient is negated.
        stochastic: whether the parameter is rounded stochastically.
    """

    formula: str
    numbers: tuple[str, ...]
    power: str
    buffers: tuple[str, ...]
    precision: str
    block_size: int
    param_dtype: torch.dtype
    grad_dtype: torch.dtype
    maximize: bool
    stochastic: bool

    @property
    def statements(self) -> list[tuple[str, str]]:
        """The assigned names and their expressions, in order."""
        lines = filter(None, map(str.strip, self.formula.splitlines()))
        return [tuple(line.split(" = ", 1)) for line in lines]


Tensors = Sequence[Sequence[Tensor]]
Counts = Sequence[int | Tensor]
Formulas = Mapping[int | Tensor, Formula]


class Kernel(ABC):
    """Updates parameters that are alike in one call.

    Args:
        variant: what the kernel is generated for.
    """

    @abstractmethod
    def __init__(self, variant: Variant) -> None: ...

    def step(self, tensors: Tensors, counts: Counts, formulas: Formulas) -> None:
        """Update parameters in place.

        Args:
            tensors: for each parameter itself, its gradient and the parts of its buffers, all
                contiguous, in the order of `powerstep.state`.
            counts: the step number of each parameter.
            formulas: the formula of each step number.
        """
        self._launch(tensors, counts, formulas)
        # torch's operations do this too. Autograd then refuses a graph that needs the old values.
        torch.autograd.graph.increment_version([own[0] for own in tensors])

    @abstractmethod
    def _launch(self, tensors: Tensors, counts: Counts, formulas: Formulas) -> None:
        """Do the work of `step`."""


@functools.lru_cache(maxsize=64)
def chunks(numels: tuple[int, ...], size: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Return the first element of each chunk, and the number of its parameter; both int64.

    Args:
        numels: number of elements of each parameter.
        size: number of elements of a chunk.
        device: device of the result.
    """
    starts = [torch.arange(0, numel, size) for numel in numels]
    counts = torch.tensor([len(each) for each in starts])
    return torch.cat(starts).to(device), torch.repeat_interleave(counts).to(device)
