"""Matrices follow Muon's paper; other parameters are updated as by PowerStep or AdamW."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from powerstep import PowerStep
from powerstep.baselines import MuonAdamW, MuonPowerStep
from powerstep.baselines.muon import orthogonalised

LR, WEIGHT_DECAY, STEPS = 1e-2, 0.1, 5
BOTH = pytest.mark.parametrize("optimizer", [MuonAdamW, MuonPowerStep])


class Model(nn.Module):
    """One parameter of each kind."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 6)
        self.wide = nn.Linear(12, 6, bias=False)
        self.tall = nn.Linear(6, 12, bias=False)
        self.experts = nn.Parameter(torch.randn(3, 8, 6) / 3)
        self.gate_up_proj = nn.Parameter(torch.randn(2, 10, 6) / 3)
        self.norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 11, bias=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def gradients(model, steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return [
        {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}
        for _ in range(steps)
    ]


def take_steps(optimizer, model, history):
    for grads in history:
        for name, param in model.named_parameters():
            param.grad = grads[name].to(param.dtype) if name in grads else None
        optimizer.step()


def newton_schulz(matrix):
    """Return the iteration of kellerjordan.github.io/posts/muon, in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def muon(theta, grads):
    """Return a matrix after a step on each gradient (arXiv:2502.16982, section 2.2), in float64."""
    momentum = np.zeros_like(theta)
    for g in grads:
        momentum = 0.95 * momentum + 0.05 * g
        update = newton_schulz(0.95 * momentum + 0.05 * g)
        scale = 0.2 * np.sqrt(max(theta.shape))
        theta = theta - LR * (scale * update + WEIGHT_DECAY * theta)
    return theta


@BOTH
def test_matrices_and_each_expert_take_muons_steps(model, optimizer):
    start = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    history = gradients(model)
    take_steps(optimizer(model.named_parameters(), LR, weight_decay=WEIGHT_DECAY), model, history)
    for name in ("wide.weight", "tall.weight"):
        grads = [step[name].double().numpy() for step in history]
        after = model.get_parameter(name).detach()
        np.testing.assert_allclose(after, muon(start[name], grads), rtol=1e-4, atol=1e-5)
    for expert in range(3):
        grads = [step["experts"][expert].double().numpy() for step in history]
        expected = muon(start["experts"][expert], grads)
        np.testing.assert_allclose(model.experts[expert].detach(), expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_the_two_maps_that_a_gate_up_matrix_stacks_step_apart(model, optimizer):
    start = model.gate_up_proj.detach().double().numpy().copy()
    history = gradients(model)
    take_steps(optimizer(model.named_parameters(), LR, weight_decay=WEIGHT_DECAY), model, history)
    for expert in range(2):
        for half in (slice(0, 5), slice(5, 10)):
            grads = [step["gate_up_proj"][expert, half].double().numpy() for step in history]
            after = model.gate_up_proj[expert, half].detach()
            expected = muon(start[expert, half], grads)
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_matrices_step_as_with_torchs_muon(model, optimizer):
    # torch multiplies in bf16, which has three significant digits.
    theirs = copy.deepcopy(model)
    history = gradients(model)
    take_steps(optimizer(model.named_parameters(), LR, weight_decay=WEIGHT_DECAY), model, history)
    reference = torch.optim.Muon(
        [theirs.wide.weight, theirs.tall.weight],
        LR,
        weight_decay=WEIGHT_DECAY,
        adjust_lr_fn="match_rms_adamw",
    )
    take_steps(reference, theirs, history)
    for name in ("wide.weight", "tall.weight"):
        torch.testing.assert_close(
            model.get_parameter(name), theirs.get_parameter(name), rtol=0, atol=2e-3
        )


@pytest.mark.parametrize(
    ("optimizer", "ratio", "reference", "lr"),
    [
        (MuonPowerStep, {}, PowerStep, LR / 2),
        (MuonPowerStep, {"aux_lr_ratio": 1.0}, PowerStep, LR),
        (MuonAdamW, {}, partial(torch.optim.AdamW, betas=(0.9, 0.95)), LR),
        (MuonAdamW, {"aux_lr_ratio": 3}, partial(torch.optim.AdamW, betas=(0.9, 0.95)), 3 * LR),
    ],
)
def test_all_else_steps_as_with_the_other_optimizer(model, optimizer, ratio, reference, lr):
    theirs = copy.deepcopy(model)
    history = gradients(model)
    made = optimizer(model.named_parameters(), LR, weight_decay=WEIGHT_DECAY, **ratio)
    take_steps(made, model, history)
    names = ["embed_tokens.weight", "lm_head.weight", "norm.weight", "norm.bias"]
    params = [theirs.get_parameter(name) for name in names]
    take_steps(reference(params, lr, weight_decay=WEIGHT_DECAY), theirs, history)
    for name in names:
        ours, expected = model.get_parameter(name), theirs.get_parameter(name)
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 7, 7)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalised(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = torch.diagonal(u.mT @ result @ v.mT, dim1=-2, dim2=-1)
    assert 0.5 < inner.min() <= inner.max() < 1.3


@BOTH
def test_a_resumed_run_goes_on_bit_for_bit(model, optimizer):
    again = copy.deepcopy(model)
    history = gradients(model, 6)
    whole = optimizer(model.named_parameters(), LR)
    take_steps(whole, model, history)
    first = optimizer(again.named_parameters(), LR)
    take_steps(first, again, history[:3])
    second = optimizer(again.named_parameters(), LR)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(second, again, history[3:])
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@BOTH
@pytest.mark.parametrize("ratio", [0, -1.0, "half"])
def test_a_ratio_of_learning_rates_must_be_positive(model, optimizer, ratio):
    with pytest.raises(ValueError, match=r"aux_lr_ratio is .* but it must be greater than 0"):
        optimizer(model.named_parameters(), LR, aux_lr_ratio=ratio)


@BOTH
def test_a_schedule_keeps_the_ratio_of_learning_rates(model, optimizer):
    made = optimizer(model.named_parameters(), torch.tensor(LR), aux_lr_ratio=0.25)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 0.5**step)
    take_steps(made, model, gradients(model, 1))
    schedule.step()
    lrs = {group["is_matrix"]: float(group["lr"]) for group in made.param_groups}
    assert lrs == pytest.approx({True: LR / 2, False: LR / 8})


@BOTH
def test_the_schedule_reaches_every_parameter(model, optimizer):
    before = [param.detach().clone() for param in model.parameters()]
    made = optimizer(model.named_parameters(), LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda _: 0.0)
    take_steps(made, model, gradients(model, 2))
    assert schedule.get_last_lr() == [0.0] * len(made.param_groups)
    for a, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(a, b)


@BOTH
def test_momentum_stays_fp32_for_bf16_parameters(model, optimizer):
    model.bfloat16()
    made = optimizer(model.named_parameters(), LR)
    take_steps(made, model, gradients(model, 2))
    loaded = optimizer(model.named_parameters(), LR)
    loaded.load_state_dict(made.state_dict())
    assert loaded.state[model.wide.weight]["momentum"].dtype == torch.float32


@BOTH
@pytest.mark.parametrize("lr", [-1, "fast"])
def test_a_value_outside_its_range_is_refused(model, optimizer, lr):
    with pytest.raises(ValueError, match=f"lr is {lr!r}, but it must be"):
        optimizer(model.named_parameters(), lr)


@BOTH
@pytest.mark.parametrize("shape", [(8, 16, 1, 1), (8, 3, 2, 2), (4, 2, 2, 2, 2), (2, 3, 3, 3)])
def test_a_convolution_steps_as_the_matrix_that_its_kernel_is(optimizer, shape):
    # kellerjordan.github.io/posts/muon: "flattening their last three dimensions".
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kernel = nn.Parameter(start.clone())
    made = optimizer([("conv", kernel)], LR, weight_decay=WEIGHT_DECAY)
    grads = torch.randn(STEPS, *shape, generator=torch.Generator().manual_seed(1))
    for grad in grads:
        kernel.grad = grad.clone()
        made.step()
    expected = muon(start.flatten(1).double().numpy(), grads.flatten(2).double().numpy())
    np.testing.assert_allclose(kernel.detach().flatten(1), expected, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("shape", [(3, 0), (0, 4), (0, 3, 2, 2), (2, 0, 3)])
def test_matrices_without_elements_are_stepped(optimizer, shape):
    param = nn.Parameter(torch.zeros(shape))
    param.grad = torch.zeros(shape)
    optimizer([("weight", param)], LR).step()


@BOTH
@pytest.mark.parametrize(
    "misuse",
    [
        lambda model: model.parameters(),
        lambda model: [{"params": list(model.named_parameters())}],
        lambda model: dict(model.named_parameters()),
        lambda model: [(param, name) for name, param in model.named_parameters()],
        lambda model: model.wide.weight.detach(),
    ],
)
def test_what_has_no_names_is_refused(model, optimizer, misuse):
    with pytest.raises(ValueError, match=f"^{optimizer.__name__} takes named_parameters"):
        optimizer(misuse(model), LR)


@BOTH
def test_a_group_added_later_says_whether_it_has_hidden_matrices(model, optimizer):
    made = optimizer(model.named_parameters(), LR)
    groups = len(made.param_groups)
    weight = nn.Parameter(torch.ones(4, 6))
    for params in ([weight], [("later", weight)]):
        with pytest.raises(ValueError, match=r"named_parameters .* is_matrix=True or False"):
            made.add_param_group({"params": params})
    with pytest.raises(ValueError, match=r"shape \(4, 6\) .* stacked=3"):
        made.add_param_group({"params": [("later", weight)], "is_matrix": True, "stacked": 3})
    assert len(made.param_groups) == groups
    made.add_param_group({"params": [("later", weight)], "is_matrix": True})
    weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    made.step()
    assert list(made.state[weight]) == ["momentum"]


@BOTH
def test_half_a_row_of_two_stacked_matrices_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"shape \(5, 4\) .* stacked=2"):
        optimizer([("gate_up_proj", nn.Parameter(torch.zeros(5, 4)))], LR)


@BOTH
def test_groups_that_do_not_tell_hidden_matrices_are_refused(model, optimizer):
    made = optimizer(model.named_parameters(), LR)
    take_steps(made, model, gradients(model, 1))
    state = copy.deepcopy(made.state_dict())
    del state["param_groups"][0]["is_matrix"]
    with pytest.raises(ValueError, match="is_matrix"):
        made.load_state_dict(state)
    take_steps(made, model, gradients(model, 1))
