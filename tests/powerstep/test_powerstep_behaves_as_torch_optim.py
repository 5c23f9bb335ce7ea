"""PowerStep keeps the manners of torch's own optimizers."""

import io

import pytest
import torch
from torch import nn

from powerstep import PowerStep


def take_steps(model, optimizer, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        x = torch.randn(8, 16, generator=generator)
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(16, 40).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_loaded_state_goes_on_bit_for_bit(precision, dtype):
    model = linear(dtype)
    optimizer = PowerStep(model.parameters(), lr=1e-2, state_precision=precision)
    take_steps(model, optimizer, 5)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    take_steps(model, optimizer, 5, seed=1)

    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = linear(dtype)
    resumed.load_state_dict(weights)
    again = PowerStep(resumed.parameters(), lr=1e-2, state_precision=precision)
    again.load_state_dict(state)
    for param in resumed.parameters():
        dtypes = {value.dtype for value in again.state[param].values()}
        assert dtypes == ({torch.float32} if precision == "fp32" else {torch.int8, torch.float32})
    take_steps(resumed, again, 5, seed=1)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", 4.0), ("int8", 1 + 4 / 128)])
def test_state_bytes_per_parameter(precision, expected):
    param = nn.Parameter(torch.zeros(64, 128))
    param.grad = torch.ones_like(param)
    optimizer = PowerStep([param], lr=1e-3, state_precision=precision)
    optimizer.step()
    size = sum(v.numel() * v.element_size() for v in optimizer.state[param].values())
    assert size / param.numel() == expected


def test_each_group_has_its_own_values():
    slow, fast = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    optimizer = PowerStep([{"params": slow}, {"params": fast, "lr": 1.0}], lr=0.1, beta=0.0)
    slow.grad, fast.grad = torch.ones(4), torch.ones(4)
    optimizer.step()
    assert slow.tolist() == pytest.approx([-0.1] * 4)
    assert fast.tolist() == pytest.approx([-1.0] * 4)


def test_gradients_are_left_as_they_were_and_missing_ones_are_skipped():
    with_grad, without = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    with_grad.grad = torch.full((4,), 0.5)
    PowerStep([with_grad, without], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(with_grad.grad, torch.full((4,), 0.5))
    assert torch.equal(without, torch.ones(4))


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    param = nn.Parameter(torch.ones(4))
    optimizer = PowerStep([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert (param < 1).all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -1.0),
        ("gamma", 1.5),
        ("beta", -0.1),
        ("beta", 1.1),
        ("weight_decay", -0.1),
        ("state_precision", "int3"),
        ("block_size", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} is {value!r}, but it must be"):
        PowerStep([nn.Parameter(torch.zeros(1))], **{"lr": 0.1} | {argument: value})
    with pytest.raises(ValueError, match=f"^{argument} is"):
        PowerStep([{"params": [nn.Parameter(torch.zeros(1))], argument: value}], lr=0.1)
