"""How an optimizer's buffers are kept between steps: in fp32, in bf16, or blockwise quantised."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
        """Return, flat, as much of a stored tensor as `numel` elements of the buffer need."""
        flat, length = tensor.view(-1), -(-numel // self.span)
        return flat if flat.numel() == length else flat[:length]


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


def storage(precision: str, block_size: int) -> Full | Blockwise:
    """Return the way of keeping that `precision`, one of PRECISIONS, names."""
    if precision == "fp32":
        return Full(torch.float32)
    if precision == "bf16":
        return Full(torch.bfloat16)
    return Blockwise(bits=int(precision.removeprefix("int")), block_size=block_size)


def local(tensor: Tensor) -> Tensor:
    """Return the shard of a DTensor that this process holds; another tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def local_grad(param: Tensor) -> Tensor:
    """Return this process's shard of the gradient, laid out as its shard of the parameter."""
    grad = param.grad
    if hasattr(grad, "to_local") and grad.placements != param.placements:
        grad = grad.redistribute(placements=param.placements)  # tensor parallel may leave a Partial
    return local(grad)


def new_part(param: Tensor, part: Part) -> Tensor:
    """Return the zeros in which a part of a buffer of `param` is kept.

    A part that keeps every element has the shape of `param`. One that stands for spans of elements
    has that shape with a shorter last dimension where whole spans fill it, and is flat otherwise.
    The part of a DTensor is a DTensor with the same placements, so that a checkpoint saves and
    reshards it. Where the shards are no whole number of spans, each process has blocks of its own
    and the part is laid out for this number of processes alone.
    """
    if part.span == 1:
        return torch.zeros_like(param, dtype=part.dtype, memory_format=torch.contiguous_format)
    last_dim_shards = _shards(param)[-1] if param.ndim else 1
    if param.ndim and param.shape[-1] % (part.span * last_dim_shards) == 0:
        shape = (*param.shape[:-1], param.shape[-1] // part.span)
        if not hasattr(param, "to_local"):
            return torch.zeros(shape, dtype=part.dtype, device=param.device)
        own = param.to_local()
        own_shape = (*own.shape[:-1], own.shape[-1] // part.span)
        return _distribute(own.new_zeros(own_shape, dtype=part.dtype), param, shape)
    shards = _shards(param)
    largest_shard = math.prod(
        math.ceil(size / count) for size, count in zip(param.shape, shards, strict=True)
    )
    own_spans = math.ceil(largest_shard / part.span)
    own = torch.zeros(own_spans, dtype=part.dtype, device=local(param).device)
    if not hasattr(param, "to_local"):
        return own
    processes = math.prod(shards)
    are_shared_out = processes == 1 or (
        processes == shards[0]
        and param.shape[0] % processes == 0
        and largest_shard % part.span == 0
    )
    if are_shared_out:  # the spans of one process, as many to each shard
        return _distribute(own, param, (own_spans * processes,))
    # One row a process: another number of processes cannot load it from a checkpoint by mistake.
    return _distribute(own.view(*[1] * param.ndim, own_spans), param, (*shards, own_spans))


def _shards(param: Tensor) -> list[int]:
    """Count the shards of each dimension; 1 each of a tensor that is not a DTensor."""
    counts = [1] * param.ndim
    if hasattr(param, "to_local"):
        for size, placement in zip(param.device_mesh.shape, param.placements, strict=True):
            dim = getattr(placement, "dim", None)  # _StridedShard has one, but is_shard() is False
            if dim is not None:
                counts[dim] *= size
    return counts


def _distribute(own: Tensor, param: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a DTensor of `shape` from each process's part, placed as `param` is."""
    from torch.distributed.tensor import DTensor, Shard

    placements = [  # of a flat part, what would be sharded otherwise is sharded over one process
        Shard(0) if getattr(placement, "dim", 0) >= len(shape) else placement
        for placement in param.placements
    ]
    stride = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    return DTensor.from_local(
        own, param.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
