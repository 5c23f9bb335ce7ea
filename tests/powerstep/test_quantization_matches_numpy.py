"""Blockwise quantisation gives exactly the codes of arXiv:2605.10335, section 4."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from powerstep import dequantize_blockwise, pack_int4, quantize_blockwise, unpack_int4
from tests.powerstep import oracle

finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=finite)


@given(x=arrays, block_size=st.sampled_from([1, 8, 128]), bits=st.sampled_from([4, 8]))
def test_codes_and_scales_equal_numpys(x, block_size, bits):
    codes, scales = quantize_blockwise(torch.from_numpy(x), block_size, bits)
    expected_codes, expected_scales = oracle.quantize(x, block_size, bits)
    assert codes.dtype == torch.int8
    assert scales.dtype == torch.float32
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scales, expected_scales)


@given(x=arrays, bits=st.sampled_from([4, 8]))
def test_what_comes_back_is_off_by_at_most_half_a_code(x, bits):
    codes, scales = quantize_blockwise(torch.from_numpy(x), bits=bits)
    back = dequantize_blockwise(codes, scales, bits=bits)
    half_code = np.repeat(scales.numpy(), 128)[: x.size].reshape(x.shape) / (2**bits - 2)
    assert np.all(np.abs(back.numpy() - x) <= half_code * (1 + 1e-5))
    expected = oracle.dequantize(codes.numpy(), scales.numpy(), bits=bits)
    np.testing.assert_allclose(back, expected, rtol=1e-6, atol=0)


@given(codes=hnp.arrays(np.int8, hnp.array_shapes(max_dims=2), elements=st.integers(-8, 7)))
def test_int4_codes_are_packed_two_a_byte_and_come_back(codes):
    packed = pack_int4(torch.from_numpy(codes))
    assert packed.dtype == torch.uint8
    assert packed.shape == ((codes.size + 1) // 2,)
    flat = codes.ravel().tolist()
    for index, byte in enumerate(packed.tolist()):
        assert byte & 15 == flat[2 * index] % 16
        assert byte >> 4 == (flat[2 * index + 1] % 16 if 2 * index + 1 < codes.size else 0)
    back = unpack_int4(packed, codes.size)
    assert back.dtype == torch.int8
    assert back.tolist() == flat


def test_a_block_of_zeros_keeps_scale_and_codes_zero():
    codes, scales = quantize_blockwise(torch.zeros(256))
    assert not codes.any()
    assert not scales.any()
    assert not dequantize_blockwise(codes, scales).any()


def test_the_last_block_may_be_short():
    x = torch.linspace(-1, 1, 130)
    codes, scales = quantize_blockwise(x)
    assert codes.shape == (130,)
    assert scales.tolist() == [x[:128].abs().max().item(), x[128:].abs().max().item()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_own_block_only(bad):
    x = torch.ones(256)
    x[5] = bad
    back = dequantize_blockwise(*quantize_blockwise(x))
    assert back[:128].isnan().all()
    assert torch.equal(back[128:], x[128:])


def test_the_input_is_left_as_it_was():
    x = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    quantize_blockwise(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda codes, scales: dequantize_blockwise(codes, scales[:1]), r"shape \(1,\), .* \(3,\)"),
        (
            lambda codes, scales: dequantize_blockwise(codes, scales, 150),
            r"shape \(3,\), .* \(2,\)",
        ),
        (lambda codes, scales: dequantize_blockwise(codes, scales, bits=5), "^bits is 5, but it"),
        (lambda codes, scales: quantize_blockwise(scales, bits=16), "^bits is 16, but it"),
        (lambda codes, scales: pack_int4(codes.int()), "dtype torch.int32, but it must be"),
        (lambda codes, scales: unpack_int4(pack_int4(codes), 600), r"shape \(150,\) .* \(300,\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    codes, scales = quantize_blockwise(torch.ones(300))
    with pytest.raises(ValueError, match=words):
        call(codes, scales)
