"""The blockwise int8 codec is section 4 of arXiv:2605.10335, code for code."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from powerstep import dequantize_blockwise, quantize_blockwise
from tests.powerstep import oracle

finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=finite)


@given(x=arrays, block_size=st.sampled_from([1, 8, 128]))
def test_codes_and_scales_equal_numpys(x, block_size):
    codes, scales = quantize_blockwise(torch.from_numpy(x), block_size)
    expected_codes, expected_scales = oracle.quantize(x, block_size)
    assert codes.dtype == torch.int8
    assert scales.dtype == torch.float32
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scales, expected_scales)


@given(x=arrays)
def test_what_comes_back_is_off_by_at_most_half_a_code(x):
    codes, scales = quantize_blockwise(torch.from_numpy(x))
    back = dequantize_blockwise(codes, scales)
    half_code = np.repeat(scales.numpy(), 128)[: x.size].reshape(x.shape) / 254
    assert np.all(np.abs(back.numpy() - x) <= half_code * (1 + 1e-5))
    np.testing.assert_allclose(
        back, oracle.dequantize(codes.numpy(), scales.numpy()), rtol=1e-6, atol=0
    )


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
