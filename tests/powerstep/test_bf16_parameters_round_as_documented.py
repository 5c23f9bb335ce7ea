"""Steps that are small compared with the spacing of bf16 numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from powerstep import PowerStep
from powerstep.rounding import stochastic_round_

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(x, seed=0):
    torch.manual_seed(seed)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    stochastic_round_(out, x)
    return out


def neighbours(x):
    """Return the bf16 neighbours of fp32 numbers, towards zero and away from it."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    down = (bits & 0xFFFF0000).view(np.float32)
    up = np.where(bits & 0xFFFF, (bits & 0xFFFF0000) + 0x10000, bits).astype(np.uint32)
    return down, up.view(np.float32)


@given(x=st.lists(floats, min_size=1, max_size=50), seed=st.integers(0, 2**31))
def test_the_result_is_one_of_the_two_neighbours(x, seed):
    x = np.array(x, np.float32)
    down, up = neighbours(x)
    result = rounded(torch.from_numpy(x), seed).float().numpy()
    assert np.all((result == down) | (result == up))


def test_the_mean_is_the_number_itself():
    numbers = torch.tensor([1.0001, -0.020003, 3e-20, 1.0 + 2**-8, 5.0])
    x = numbers.repeat_interleave(200_000)
    mean = rounded(x).double().view(len(numbers), -1).mean(1)
    spacing = torch.from_numpy(np.subtract(*neighbours(numbers)[::-1])).double().abs()
    # Five standard errors of the mean of 200,000 numbers, each rounded up or down.
    assert ((mean - numbers.double()).abs() <= 5 * spacing / 2 / 200_000**0.5).all()


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), 0.0, -0.0])
def test_what_bf16_has_stays_as_it_is(bad):
    x = torch.full((1000,), bad)
    assert torch.equal(rounded(x).float(), x)
    assert torch.equal(rounded(x).signbit(), x.signbit())


def test_every_nan_stays_nan():
    bits = torch.tensor([0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1, -0x400000], dtype=torch.int32)
    assert rounded(bits.repeat(1000).view(torch.float32)).isnan().all()


def test_the_input_is_left_as_it_was():
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    rounded(x)
    assert torch.equal(x, before)


def distance_moved(steps, size, path, **arguments):
    """Return how far bf16 weights near 0.02 move in `steps` steps of `size`, relative to fp32."""
    torch.manual_seed(0)
    start = torch.full((4096,), 0.02).bfloat16()
    param = torch.nn.Parameter(start.clone())
    param.grad = torch.ones_like(param)
    optimizer = PowerStep([param], lr=size, beta=0.0, **arguments, **path)
    for _ in range(steps):
        optimizer.step()
    return (start.double() - param.detach().double()).mean().item() / (steps * size)


@pytest.mark.parametrize("path", [{"compiled": False}, {"foreach": True}, {"compiled": True}])
def test_small_steps_add_up_only_with_stochastic_rounding(path):
    # The spacing of bf16 numbers near 0.02 is 1.2e-4; half of it is six of these steps.
    assert distance_moved(100, 1e-5, path) == 0
    moved = distance_moved(100, 1e-5, path, stochastic_rounding=True)
    assert moved == pytest.approx(1, abs=0.03)


def test_the_noise_of_a_kernel_differs_between_steps_and_parameters():
    params = [torch.nn.Parameter(torch.ones(1000).bfloat16()) for _ in range(2)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = PowerStep(params, lr=2**-10, beta=0.0, stochastic_rounding=True)
    optimizer.step()  # by a quarter of the spacing of bf16 numbers below 1
    first = [param.detach() < 1 for param in params]
    for param in params:
        param.data.fill_(1)
    optimizer.step()
    for one, other in [first, (first[0], params[0].detach() < 1)]:
        # If the two are independent, about half of 2 · ¼ · ¾ · 1000 elements differ.
        assert 300 < (one != other).sum() < 450


def test_one_seed_gives_one_result():
    results = [distance_moved(10, 1e-5, {}, stochastic_rounding=True) for _ in range(2)]
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_parameters_are_rounded_as_ever(dtype):
    results = []
    for stochastic in (False, True):
        param = torch.nn.Parameter(torch.ones(100, dtype=dtype))
        param.grad = torch.full_like(param, 0.3)
        PowerStep([param], lr=0.1, stochastic_rounding=stochastic).step()
        results.append(param.detach())
    assert torch.equal(*results)
