"""Blockwise symmetric quantisation by absolute maximum (arXiv:2605.10335, section 4)."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def quantize_blockwise(x: Tensor, block_size: int = 128, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Quantise `x` to integer codes with one fp32 scale for each block of consecutive elements.

    A block is `block_size` consecutive elements of the flattened tensor; the last block may be
    shorter. The scale of a block is s = max|x|, and its codes are round(Q·x/s), ties to even. Q is
    the largest code: 127 for 8 bits, 7 for 4 bits. A block of zeros has scale 0 and codes 0. A NaN
    or an infinity makes its whole block NaN after dequantisation.

    Args:
        x: any shape, floating dtype; left unmodified.
        block_size: elements per block.
        bits: bits per code, 8 or 4.

    Returns:
        codes: int8, the shape of `x`, in [-Q, Q].
        scales: fp32, shape (ceil(x.numel() / block_size),).

    Raises:
        ValueError: `bits` is not 4 or 8.
    """
    blocks = _as_blocks(x.float(), block_size)
    scales = blocks.abs().amax(dim=1)
    # Divide by s before multiplying by Q: |x/s| ≤ 1, so nothing overflows, and ±s gives exactly ±Q.
    # A block of zeros gives 0/0 = NaN, which becomes code 0.
    ratios = blocks / scales.unsqueeze(1)
    codes = ratios.mul_(max_code(bits)).round_().nan_to_num_(0.0).to(torch.int8)
    return codes.flatten()[: x.numel()].view(x.shape), scales


def dequantize_blockwise(
    codes: Tensor, scales: Tensor, block_size: int = 128, bits: int = 8
) -> Tensor:
    """Return codes·(s/Q), the inverse of `quantize_blockwise`: fp32, the shape of `codes`.

    Args:
        codes: int8, any shape.
        scales: fp32, shape (ceil(codes.numel() / block_size),).
        block_size: elements per block, the same as for quantisation.
        bits: bits per code, the same as for quantisation.

    Raises:
        ValueError: the number of scales is not the number of blocks, or `bits` is not 4 or 8.
    """
    blocks = -(-codes.numel() // block_size)
    if scales.shape != (blocks,):
        raise ValueError(
            f"scales have shape {tuple(scales.shape)}, but {codes.numel()} codes in blocks of"
            f" {block_size} need {(blocks,)}"
        )
    values = _as_blocks(codes.float(), block_size).mul_(
        (scales * (1 / max_code(bits))).unsqueeze(1)
    )
    return values.flatten()[: codes.numel()].view(codes.shape)


def pack_int4(codes: Tensor) -> Tensor:
    """Pack 4-bit codes two per byte, the first of each pair in the low half.

    Args:
        codes: int8 in [-8, 7], any shape.

    Returns:
        uint8, shape (ceil(codes.numel() / 2),). If the number of codes is odd, the high half of the
        last byte is 0.

    Raises:
        ValueError: `codes` are not int8.
    """
    if codes.dtype != torch.int8:
        raise ValueError(f"codes have dtype {codes.dtype}, but it must be torch.int8")
    pairs = _as_blocks(codes, 2).view(torch.uint8)
    return (pairs[:, 0] & 0xF) | (pairs[:, 1] << 4)


def unpack_int4(packed: Tensor, numel: int) -> Tensor:
    """Unpack `numel` codes, int8, shape (numel,): the inverse of `pack_int4`.

    Raises:
        ValueError: `packed` has not the dtype and shape that `pack_int4` gives `numel` codes.
    """
    if packed.dtype != torch.uint8 or packed.shape != (-(-numel // 2),):
        raise ValueError(
            f"packed codes have shape {tuple(packed.shape)} and dtype {packed.dtype}, but {numel}"
            f" codes need {(-(-numel // 2),)} and torch.uint8"
        )
    low_and_high = torch.stack([packed << 4, packed], dim=1).view(torch.int8)
    return low_and_high.flatten()[:numel] >> 4  # an arithmetic shift: int8 keeps the sign


def max_code(bits: int) -> int:
    """Return Q, the largest code: 127 for 8 bits, 7 for 4 bits."""
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits!r}, but it must be 4 or 8")
    return 2 ** (bits - 1) - 1


def _as_blocks(x: Tensor, block_size: int) -> Tensor:
    """Flatten `x`, pad the last block with zeros, and return shape (blocks, block_size)."""
    flat = x.flatten()
    if missing := -x.numel() % block_size:
        flat = pad(flat, (0, missing))
    return flat.view(-1, block_size)
