"""Storage of an optimizer's buffers between steps: fp32, bf16, or blockwise quantised."""

import functools
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
        suffix: appended to the buffer's name to form the key in the optimizer's state.
        dtype: dtype of the stored tensor.
        span: number of consecutive elements of the flattened buffer per stored element.
    """

    suffix: str
    dtype: torch.dtype
    span: int

    def stored(self, tensor: Tensor, numel: int) -> Tensor:
        """Return a flat view of this process's stored elements for `numel` buffer elements.

        A DTensor whose shards differ in size is padded to the largest shard in every process.
        """
        flat = local(tensor).view(-1)
        return flat[: -(-numel // self.span)] if is_dtensor(tensor) else flat


class Full:
    """Storage of a buffer as one floating-point tensor.

    Attributes:
        parts: the one part, the buffer itself.
        in_place: whether `load` returns the stored tensor itself, so that `store` is not needed.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Store the buffer in `dtype`, fp32 or bf16."""
        self.parts = (Part("", dtype, 1),)
        self.in_place = dtype == torch.float32

    def load(self, stored: Sequence[Tensor], numel: int) -> Tensor:
        """Return the buffer in fp32; the stored tensor itself if that is fp32."""
        return stored[0].float()

    def store(self, stored: Sequence[Tensor], buffer: Tensor) -> None:
        """Store a buffer, rounded to nearest."""
        stored[0].copy_(buffer)


class Blockwise:
    """Storage of a buffer as integer codes with one fp32 scale per block.

    The quantisation is that of arXiv:2605.10335, section 4.

    Attributes:
        bits: bits per code, 8 or 4.
        block_size: number of elements that share a scale.
        parts: the codes (4-bit codes are packed two per byte) and the scales.
    """

    in_place = False

    def __init__(self, bits: int, block_size: int) -> None:
        """Store the buffer in codes of 8 or 4 bits."""
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
        """Store a buffer as codes and scales."""
        codes, scales = quantize_blockwise(buffer, self.block_size, self.bits)
        stored[0].copy_(pack_int4(codes) if self.bits == 4 else codes)
        stored[1].copy_(scales)


Storage = Full | Blockwise


def storage_for(precision: str, block_size: int) -> Storage:
    """Return the storage for a precision.

    Raises:
        ValueError: `precision` is not one of PRECISIONS.
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
    """The layout of the state of one parameter.

    Attributes:
        buffers: names of the buffers.
        storage: how each buffer is stored.
        counts_steps: whether the state has the number of steps, as "step".
        capturable: whether this number is on the device of the parameter, and not on the CPU.
    """

    buffers: tuple[str, ...]
    storage: Storage
    counts_steps: bool
    capturable: bool

    def count_device(self, param: Tensor) -> torch.device:
        """Return the device of the number of steps."""
        return local(param).device if self.capturable else torch.device("cpu")


def part_shapes(param: Tensor, part: Part) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the local and the global shape of a part of a buffer of `param`.

    A part with span 1 has the shape of `param`. A part with a longer span has that shape with the
    last dimension divided by the span if it is divisible, and is flat otherwise. The part of a
    DTensor is a DTensor with the same placements, so that a checkpoint can save and reshard it. If
    the size of a shard is not a multiple of the span, each process has its own blocks, and the
    layout is valid for this number of processes only.
    """
    if part.span == 1:
        return local(param).shape, param.shape
    if not is_dtensor(param):
        shape = _part_shape(param.shape, part.span)
        return shape, shape
    counts = shard_counts(param)
    if param.ndim and param.shape[-1] % (part.span * counts[-1]) == 0:
        return _part_shape(local(param).shape, part.span), _part_shape(param.shape, part.span)
    largest_shard = math.prod(
        math.ceil(size / count) for size, count in zip(param.shape, counts, strict=True)
    )
    own_spans, processes = math.ceil(largest_shard / part.span), math.prod(counts)
    are_shared_out = processes == 1 or (
        processes == counts[0]
        and param.shape[0] % processes == 0
        and largest_shard % part.span == 0
    )
    if are_shared_out:  # every process has the same number of spans
        return (own_spans,), (own_spans * processes,)
    # One row per process, so that a checkpoint fails to load with another number of processes.
    return (*[1] * param.ndim, own_spans), (*counts, own_spans)


@functools.cache  # every step asks for the shapes of all parts
def _part_shape(shape: torch.Size, span: int) -> tuple[int, ...]:
    """Return the shape of a part for a tensor that is not sharded, or for one of equal shards."""
    if shape and shape[-1] % span == 0:
        return *shape[:-1], shape[-1] // span
    return (math.ceil(shape.numel() / span),)


def new_part(param: Tensor, part: Part) -> Tensor:
    """Return zeros with the shape, dtype and placements of a part of a buffer of `param`."""
    if part.span == 1:
        return torch.zeros_like(param, dtype=part.dtype, memory_format=torch.contiguous_format)
    own_shape, shape = part_shapes(param, part)
    own = torch.zeros(own_shape, dtype=part.dtype, device=local(param).device)
    return distribute(own, param, shape) if is_dtensor(param) else own
