"""The power function of the C kernels against float64 NumPy, over all kinds of floats."""

import numpy as np
import pytest
import torch

from powerstep.kernels.formula import CPU, Formula
from powerstep.kernels.step import Kind, kernel_for

BETAS = [0.01, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, 0.75, 0.9, 0.99]
LARGEST = 0x73800000  # bits of 2^104, from which on the power stays the same
GROUP = {
    "state_precision": "fp32",
    "block_size": 128,
    "maximize": False,
    "stochastic_rounding": False,
}


def power(x, beta):
    """Return Φ_β(x) as a kernel computes it."""
    result = torch.zeros_like(x)
    kind = Kind(CPU, torch.float32, torch.float32, is_contiguous=True)
    formula = Formula("theta = signed_power(grad)", {"unused": 0.0}, exponent=beta)
    kernel_for(kind, formula, (), GROUP).step([[result, x]], [0], {0: formula})
    return result


def relative_errors(bits, beta):
    x = torch.from_numpy(bits.astype(np.int32)).view(torch.float32)
    expected = np.power(x.double().numpy(), beta)
    return np.abs(power(x, beta).double().numpy() / expected - 1)


@pytest.mark.parametrize("beta", BETAS)
def test_relative_error_is_at_most_2e_6_over_all_normal_floats(beta):
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0x00800000, LARGEST, 2**20)  # all exponents equally often
    near_powers_of_two = (np.arange(1, 231) << 23)[:, None] + np.arange(-3, 4)
    near_sqrt_half = (np.arange(0, 230) << 23)[:, None] + 0x003504F3 + np.arange(-3, 4)
    near = np.concatenate([near_powers_of_two.ravel(), near_sqrt_half.ravel()])
    near = near[(near >= 0x00800000) & (near <= LARGEST)]
    bits = np.concatenate([anywhere, near, [0x00800000, LARGEST]])
    assert relative_errors(bits, beta).max() <= 2e-6


@pytest.mark.parametrize("beta", BETAS)
def test_every_mantissa_of_one_octave_is_right(beta):
    assert relative_errors(np.arange(0x3F800000, 0x40000000), beta).max() <= 2e-6  # [1, 2)


@pytest.mark.parametrize("beta", [beta for beta in BETAS if beta < 0.8])  # else so is the power
def test_subnormals_are_as_right_as_other_floats(beta):
    rng = np.random.default_rng(1)
    bits = np.concatenate([np.arange(1, 2**12), rng.integers(1, 0x00800000, 2**20)])
    assert relative_errors(bits, beta).max() <= 2e-6


@pytest.mark.parametrize("beta", BETAS)
def test_larger_numbers_have_the_power_of_2_to_the_104(beta):
    x = torch.tensor([2.0**104, 2.0**105, 1e38, torch.finfo(torch.float32).max])
    np.testing.assert_allclose(power(x, beta).numpy(), 2.0 ** (104 * beta), rtol=2e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_zeros_infinities_and_nan_are_their_own_powers(beta):
    x = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), -float("nan")] * 10)
    result = power(x, beta)
    np.testing.assert_array_equal(result.numpy(), x.numpy())
    assert torch.equal(torch.signbit(result[:4]), torch.signbit(x[:4]))


@pytest.mark.parametrize("beta", BETAS)
def test_the_sign_is_that_of_the_argument(beta):
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    assert torch.equal(power(-x, beta), -power(x, beta))
    assert torch.equal(power(x, beta).sign(), x.sign())


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_exponents_0_and_1_give_exactly_the_sign_and_the_number(beta):
    x = torch.tensor([0.0, -0.0, 3.0, -1e-42, float("inf"), -float("inf"), float("nan")])
    expected = x.numpy() if beta else np.sign(x.numpy())
    np.testing.assert_array_equal(power(x, beta).numpy(), expected)
