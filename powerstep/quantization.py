"""Blockwise symmetric int8 quantisation by absolute maximum (arXiv:2605.10335, section 4)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

MAX_CODE = 127


def quantize_blockwise(x: Tensor, block_size: int = 128) -> tuple[Tensor, Tensor]:
    """Quantise `x` to int8 codes with one fp32 scale for each block of consecutive elements.

    A block is `block_size` consecutive elements of the flattened tensor; the last one may be
    shorter. Its scale is s = max|x|, its codes are round(127·x/s), ties to even. A block of zeros
    keeps scale 0 and codes 0. A NaN or infinity makes its whole block NaN on the way back.

    Args:
        x: any shape, floating dtype; left unmodified.
        block_size: elements a block.

    Returns:
        codes: int8, the shape of `x`.
        scales: fp32, shape (ceil(x.numel() / block_size),).
    """
    blocks = _as_blocks(x.float(), block_size)
    scales = blocks.abs().amax(dim=1)
    # x/s before the factor 127: |x/s| is at most 1, so nothing overflows, and ±s gives ±127.
    divisors = torch.where(scales == 0, 1.0, scales).unsqueeze(1)
    codes = (blocks / divisors).mul_(MAX_CODE).round_().nan_to_num_(0.0).to(torch.int8)
    return codes.flatten()[: x.numel()].view(x.shape), scales


def dequantize_blockwise(codes: Tensor, scales: Tensor, block_size: int = 128) -> Tensor:
    """Return codes·s/127 in fp32, in the shape of `codes`; undoes `quantize_blockwise`.

    Args:
        codes: int8, any shape.
        scales: fp32, shape (ceil(codes.numel() / block_size),).
        block_size: elements a block, as it was for quantising.
    """
    blocks = _as_blocks(codes.float(), block_size)
    values = blocks.div_(MAX_CODE).mul_(scales.unsqueeze(1))
    return values.flatten()[: codes.numel()].view(codes.shape)


def _as_blocks(x: Tensor, block_size: int) -> Tensor:
    """Flatten `x`, fill the last block with zeros, and return shape (blocks, block_size)."""
    return pad(x.flatten(), (0, -x.numel() % block_size)).view(-1, block_size)
