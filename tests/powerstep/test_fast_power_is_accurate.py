"""The power function of the compiled kernels against float64 NumPy, over all kinds of floats."""

import numpy as np
import pytest
import torch

from powerstep.fast_power import MAX_BETA, fast_signed_power, power_coefficients

BETAS = [0.01, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.7, MAX_BETA]


@pytest.fixture(scope="module")
def compiled_power():
    function = torch.compile(fast_signed_power, fullgraph=True)

    def power(x, beta):
        coefficients = torch.tensor(power_coefficients(beta))
        return function(x, coefficients)

    return power


@pytest.fixture(params=["compiled", "eager"])
def power(request, compiled_power):
    if request.param == "compiled":
        return compiled_power
    return lambda x, beta: fast_signed_power(x, torch.tensor(power_coefficients(beta)))


def relative_errors(power, bits, beta):
    x = torch.from_numpy(bits.astype(np.int32)).view(torch.float32)
    expected = np.power(x.double().numpy(), beta)
    return np.abs(power(x, beta).double().numpy() / expected - 1)


@pytest.mark.parametrize("beta", BETAS)
def test_relative_error_is_at_most_2e_6_over_all_normal_floats(power, beta):
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0x00800000, 0x7F800000, 2**20)  # all exponents equally often
    ends = [0x00800000, 0x7F7FFFFF]
    near_powers_of_two = (np.arange(1, 255) << 23)[:, None] + np.arange(-3, 4)
    near_sqrt_half = (np.arange(0, 254) << 23)[:, None] + 0x003504F3 + np.arange(-3, 4)
    near = np.concatenate([near_powers_of_two.ravel(), near_sqrt_half.ravel()])
    near = near[(near >= 0x00800000) & (near < 0x7F800000)]
    bits = np.concatenate([anywhere, near, ends])
    bits = np.resize(bits, 2**20 + 2**12)  # one shape, one compilation
    assert relative_errors(power, bits, beta).max() <= 2e-6


@pytest.mark.parametrize("beta", BETAS)
def test_every_mantissa_of_one_octave_is_right(compiled_power, beta):
    bits = np.arange(0x3F800000, 0x40000000)  # [1, 2)
    for start in range(0, bits.size, 2**20):
        part = np.resize(bits[start : start + 2**20], 2**20 + 2**12)
        assert relative_errors(compiled_power, part, beta).max() <= 2e-6


@pytest.mark.parametrize("beta", BETAS)
def test_subnormals_are_as_right_as_other_floats(power, beta):
    rng = np.random.default_rng(1)
    bits = np.concatenate([np.arange(1, 2**12), rng.integers(1, 0x00800000, 2**20)])
    bits = np.resize(bits, 2**20 + 2**12)
    assert relative_errors(power, bits, beta).max() <= 2e-6


@pytest.mark.parametrize("beta", BETAS)
def test_zeros_infinities_and_nan_are_their_own_powers(power, beta):
    x = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), -float("nan")] * 10)
    result = power(x, beta)
    np.testing.assert_array_equal(result.numpy(), x.numpy())
    assert torch.equal(torch.signbit(result[:4]), torch.signbit(x[:4]))


@pytest.mark.parametrize("beta", BETAS)
def test_the_sign_is_that_of_the_argument(power, beta):
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    assert torch.equal(power(-x, beta), -power(x, beta))
    assert torch.equal(power(x, beta).sign(), x.sign())
