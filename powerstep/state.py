"""How an optimizer's buffers are kept between steps: in fp32, in bf16, or blockwise quantised."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from powerstep.dtensors import distribute, is_dtensor, local, shard_counts
from powerstep.quantization import dequantize_blockwise, pack_int4, quantize_blockwise, unpack_int4

PRECISIONS = ("fp32", "bf16", "int8", "int4")


class Part(NamedTuple):
    """One stored tensor of a buffer.

    Attributes:
        suffix: follows the buffer's name in the optimizer's state.
        dtype: of the stored tensor.
        span: consecutive elements of the flattened buffer that one stored element stands for.
    """

    suffix: str
    dtype: torch.dtype
    span: int

    def stored(self, tensor: Tensor, numel: int) -> Tensor:
        """Return, flat, what this process stores of `numel` elements of the buffer.

        The DTensor of a part that shards cut has room for the largest shard in every process.
        """
        flat = local(tensor).view(-1)
        return flat[: -(-numel // self.span)] if is_dtensor(tensor) else flat


class Full:
    """A buffer kept element by element.

    Attributes:
        parts: the buffer itself.
        in_place: whether `load` returns the stored tensor itself, which then needs no `store`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Keep the buffer in `dtype`, fp32 or bf16."""
        self.parts = (Part("", dtype, 1),)
        self.in_place = dtype == torch.float32

    def load(self, stored: Sequence[Tensor], numel: int) -> Tensor:
        """Return the buffer in fp32; where it is stored in fp32, the stored tensor itself."""
        return stored[0].float()

    def store(self, stored: Sequence[Tensor], buffer: Tensor) -> None:
        """Write a buffer back, rounded to nearest."""
        stored[0].copy_(buffer)


class Blockwise:
    """A buffer kept as integer codes with one fp32 scale a block (arXiv:2605.10335, section 4).

    Attributes:
        bits: of a code.
        block_size: elements that share a scale.
        parts: the codes, those of 4 bits two a byte, and the scales.
    """

    in_place = False

    def __init__(self, bits: int, block_size: int) -> None:
        """Keep the buffer in codes of 8 or 4 bits."""
        self.bits, self.block_size = bits, block_size
        codes = Part("_codes", torch.int8, 1) if bits == 8 else Part("_codes", torch.uint8, 2)
        self.parts = (codes, Part("_scales", torch.float32, block_size))

    def load(self, stored: Sequence[Tensor], numel: int) -> Tensor:
        """Return the buffer in fp32, a new tensor of shape (numel,)."""
        codes, scales = stored
        if self.bits == 4:
            codes = unpack_int4(codes, numel)
        return dequantize_blockwise(codes, scales, self.block_size, self.bits)

    def store(self, stored: Sequence[Tensor], buffer: Tensor) -> None:
        """Write a buffer back as its codes and scales."""
        codes, scales = quantize_blockwise(buffer, self.block_size, self.bits)
        stored[0].copy_(pack_int4(codes) if self.bits == 4 else codes)
        stored[1].copy_(scales)


Storage = Full | Blockwise


def storage_for(precision: str, block_size: int) -> Storage:
    """Return the way of keeping that `precision` names.

    Raises:
        ValueError: it is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"state_precision is {precision!r}, but it must be one of {', '.join(PRECISIONS)}"
        )
    if precision == "fp32":
        return Full(torch.float32)
    if precision == "bf16":
        return Full(torch.bfloat16)
    return Blockwise(bits=int(precision.removeprefix("int")), block_size=block_size)


class StateLayout(NamedTuple):
    """What an optimizer keeps of a parameter between steps.

    Attributes:
        buffers: their names.
        storage: how each of them is stored.
        counts_steps: whether the steps are counted, as "step".
    """

    buffers: tuple[str, ...]
    storage: Storage
    counts_steps: bool


def part_shapes(param: Tensor, part: Part) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a part of a buffer of `param`: this process's, and the whole one's.

    A part that keeps every element has the shape of `param`. One that stands for spans of elements
    has that shape with a shorter last dimension where whole spans fill it, and is flat otherwise.
    The part of a DTensor is a DTensor with the same placements, so that a checkpoint saves and
    reshards it. Where the shards are no whole number of spans, each process has blocks of its own
    and the part is laid out for this number of processes alone.
    """
    if part.span == 1:
        return local(param).shape, param.shape
    counts = shard_counts(param)
    if param.ndim and param.shape[-1] % (part.span * counts[-1]) == 0:
        own, whole = (
            (*shape[:-1], shape[-1] // part.span) for shape in (local(param).shape, param.shape)
        )
        return own, whole
    largest_shard = math.prod(
        math.ceil(size / count) for size, count in zip(param.shape, counts, strict=True)
    )
    own_spans, processes = math.ceil(largest_shard / part.span), math.prod(counts)
    are_shared_out = processes == 1 or (
        processes == counts[0]
        and param.shape[0] % processes == 0
        and largest_shard % part.span == 0
    )
    if are_shared_out:  # the spans of one process, as many to each shard
        return (own_spans,), (own_spans * processes,)
    # One row a process: another number of processes cannot load it from a checkpoint by mistake.
    return (*[1] * param.ndim, own_spans), (*counts, own_spans)


def new_part(param: Tensor, part: Part) -> Tensor:
    """Return the zeros in which a part of a buffer of `param` is layout."""
    if part.span == 1:
        return torch.zeros_like(param, dtype=part.dtype, memory_format=torch.contiguous_format)
    own_shape, shape = part_shapes(param, part)
    own = torch.zeros(own_shape, dtype=part.dtype, device=local(param).device)
    return distribute(own, param, shape) if is_dtensor(param) else own
