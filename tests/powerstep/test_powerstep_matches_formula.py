"""PowerStep takes the steps that Algorithm 1 and section 4 of arXiv:2605.10335 define."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from powerstep import PowerStep, signed_power, unpack_int4
from tests.powerstep import oracle

STEPS = 50


def random_walk(shape, seed=0, dtype=torch.float32):
    """Return a parameter and STEPS gradients of mixed sizes, some of them exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape, generator=generator)
    scale = 10.0 ** torch.empty(shape).uniform_(-6, 2, generator=generator)
    grads = [torch.randn(shape, generator=generator) * scale for _ in range(STEPS)]
    for grad in grads:
        grad[torch.rand(shape, generator=generator) < 0.1] = 0
    return start.to(dtype), [grad.to(dtype) for grad in grads]


def steps(start, grads, make, **arguments):
    param = torch.nn.Parameter(start.clone())
    optimizer = make([param], **arguments)
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(7, 33), (256,), ()])
def test_fp32_state_follows_the_formula(shape, beta, weight_decay):
    start, grads = random_walk(shape)
    arguments = {"lr": 1e-2, "gamma": 0.9, "beta": beta, "weight_decay": weight_decay}
    expected = oracle.powerstep(start, grads, **arguments)
    actual = steps(start, grads, PowerStep, **arguments)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@given(
    gamma=st.floats(0.1, 0.99),  # smaller products underflow in fp32 but not in float64
    beta=st.floats(0, 1),
    weight_decay=st.floats(0, 0.5),
    seed=st.integers(0, 2**31),
)
def test_any_hyperparameters_follow_the_formula(gamma, beta, weight_decay, seed):
    start, grads = random_walk((5, 3), seed)
    arguments = {"lr": 1e-3, "gamma": gamma, "beta": beta, "weight_decay": weight_decay}
    expected = oracle.powerstep(start, grads[:10], **arguments)
    actual = steps(start, grads[:10], PowerStep, **arguments)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_beta_0_is_sign_momentum_exactly():
    start, grads = random_walk((16, 16))
    expected, momentum = start.clone(), torch.zeros_like(start)
    for grad in grads:
        momentum.mul_(0.9).add_(grad)
        expected.sub_(momentum.sign(), alpha=1e-2)
    assert torch.equal(steps(start, grads, PowerStep, lr=1e-2, beta=0.0), expected)


def test_beta_1_is_torch_sgd_with_momentum_exactly():
    start, grads = random_walk((16, 16))
    expected = steps(start, grads, torch.optim.SGD, lr=1e-2, momentum=0.9)
    assert torch.equal(steps(start, grads, PowerStep, lr=1e-2, beta=1.0, compiled=False), expected)


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
def test_the_power_of_zero_is_zero(beta):
    assert torch.equal(signed_power(torch.zeros(3), beta), torch.zeros(3))


def test_decay_acts_on_the_old_parameter_and_not_on_the_momentum():
    start = torch.full((4,), 2.0)
    moved = steps(start, [torch.zeros(4)] * 3, PowerStep, lr=0.1, weight_decay=0.5)
    torch.testing.assert_close(moved, start * (1 - 0.1 * 0.5) ** 3)


def test_bf16_parameters_are_updated_in_fp32():
    start, grads = random_walk((64,), dtype=torch.bfloat16)
    rounded, momentum = start.double().numpy(), np.zeros(64)
    for grad in grads:  # rounded to bf16 once per step only
        momentum = 0.9 * momentum + grad.double().numpy()
        rounded = rounded - 0.1 * np.sign(momentum) * np.abs(momentum) ** 0.1
        rounded = torch.from_numpy(rounded).bfloat16().double().numpy()
    actual = steps(start, grads, PowerStep, lr=0.1).double().numpy()
    # If fp32 and float64 are on different sides of a tie, bf16 differs in its last bit.
    assert (actual == rounded).mean() > 0.95
    np.testing.assert_allclose(actual, rounded, rtol=2**-6)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [(256,), (5, 77), (3,)])
def test_quantised_steps_use_the_full_precision_momentum_and_store_its_codes(shape, bits):
    start, grads = random_walk(shape)
    param = torch.nn.Parameter(start.clone())
    optimizer = PowerStep([param], lr=1e-2, weight_decay=0.1, state_precision=f"int{bits}")
    codes, scales = oracle.quantize(np.zeros(shape), bits=bits)
    for grad in grads:
        before = param.detach().double().numpy()
        param.grad = grad.clone()
        optimizer.step()
        momentum = 0.9 * oracle.dequantize(codes, scales, bits=bits) + grad.double().numpy()
        update = np.sign(momentum) * np.abs(momentum) ** 0.1
        expected = before - 1e-2 * (update + 0.1 * before)
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-5, atol=1e-6)
        state = optimizer.state[param]
        codes = state["momentum_codes"].clone()
        if bits == 4:
            codes = unpack_int4(codes.flatten(), before.size).view(shape)
        codes, scales = codes.numpy(), state["momentum_scales"].flatten().numpy().copy()
        expected_codes, expected_scales = oracle.quantize(momentum, bits=bits)
        # The momentum has an fp32 rounding error relative to its larger summand, so a code at a tie
        # may be rounded to either side.
        rounding = 1e-6 * grad.abs().max().item()
        np.testing.assert_allclose(scales, expected_scales, rtol=1e-6, atol=rounding)
        assert np.abs(codes.astype(int) - expected_codes).max() <= 1
        assert (codes != expected_codes).mean() < 0.02


def test_bf16_state_is_the_momentum_rounded_after_each_step():
    start, grads = random_walk((64,))
    param = torch.nn.Parameter(start.clone())
    optimizer = PowerStep([param], lr=1e-2, state_precision="bf16")
    stored = torch.zeros(64, dtype=torch.bfloat16)
    for grad in grads:
        before = param.detach().double().numpy()
        param.grad = grad.clone()
        optimizer.step()
        momentum = 0.9 * stored.double().numpy() + grad.double().numpy()
        expected = before - 1e-2 * np.sign(momentum) * np.abs(momentum) ** 0.1
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-5, atol=1e-6)
        stored = optimizer.state[param]["momentum"].clone()
        assert stored.dtype == torch.bfloat16
        np.testing.assert_allclose(stored.double(), momentum, rtol=2**-8, atol=1e-30)
