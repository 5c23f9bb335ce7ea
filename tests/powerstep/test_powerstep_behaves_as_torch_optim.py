"""The optimizers behave like torch's own, as tested in torch's `test_optim.py`."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from powerstep import PowerStep
from powerstep.baselines import AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey

PRECISIONS = ["fp32", "bf16", "int8", "int4"]
STATE_DTYPES = {
    "fp32": {torch.float32},
    "bf16": {torch.bfloat16},
    "int8": {torch.int8, torch.float32},
    "int4": {torch.uint8, torch.float32},
}
PATHS = [{"compiled": False}, {"foreach": True}, {"compiled": True}]
OPTIMIZERS = [PowerStep, AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey]


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(16, 40).to(dtype)


def take_steps(model, optimizer, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        x = torch.randn(8, 16, generator=generator)
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_weights(one, other):
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def one_param(value=1.0, grad=0.5, size=4):
    param = nn.Parameter(torch.full((size,), value))
    param.grad = torch.full((size,), grad)
    return param


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_a_quadratic_is_minimised(optimizer_class):
    param = nn.Parameter(torch.tensor([1.5, -2.0]))
    optimizer = optimizer_class([param], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for _ in range(200):
        optimizer.zero_grad()
        param.square().sum().backward()
        optimizer.step()
        scheduler.step()
    assert param.square().sum() < 0.1


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_a_step_without_gradients_changes_nothing(optimizer_class):
    param = nn.Parameter(torch.ones(4))
    optimizer = optimizer_class([param], lr=0.1, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(param, torch.ones(4))
    assert not optimizer.state


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_a_step_on_zero_gradients_changes_nothing(optimizer_class):
    param = one_param(grad=0.0)
    optimizer_class([param], lr=0.1).step()
    assert torch.equal(param, torch.ones(4))


@pytest.mark.parametrize("path", PATHS)
def test_gradients_are_left_as_they_were_and_missing_ones_are_skipped(path):
    with_grad, without = one_param(size=300), nn.Parameter(torch.ones(4))
    PowerStep([with_grad, without], lr=0.1, weight_decay=0.1, maximize=True, **path).step()
    assert torch.equal(with_grad.grad, torch.full((300,), 0.5))
    assert torch.equal(without, torch.ones(4))


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_no_optimizer_writes_into_gradients(optimizer_class):
    param = one_param()
    optimizer_class([param], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(param.grad, torch.full((4,), 0.5))


@pytest.mark.parametrize("path", PATHS)
def test_maximize_is_minimising_the_negative(path):
    up, down = one_param(grad=-0.5, size=300), one_param(grad=0.5, size=300)
    PowerStep([up], lr=0.1, weight_decay=0.1, maximize=True, **path).step()
    PowerStep([down], lr=0.1, weight_decay=0.1, **path).step()
    assert torch.equal(up, down)


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


# --- learning rates and groups ----------------------------------------------------------------


def test_each_group_has_its_own_values():
    slow, fast = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    optimizer = PowerStep([{"params": slow}, {"params": fast, "lr": 1.0}], lr=0.1, beta=0.0)
    slow.grad, fast.grad = torch.ones(4), torch.ones(4)
    optimizer.step()
    assert slow.tolist() == pytest.approx([-0.1] * 4)
    assert fast.tolist() == pytest.approx([-1.0] * 4)


def test_groups_may_keep_their_state_in_different_precisions():
    params = [one_param(size=256) for _ in PRECISIONS]
    optimizer = PowerStep(
        [{"params": p, "state_precision": s} for p, s in zip(params, PRECISIONS, strict=True)],
        lr=0.1,
    )
    optimizer.step()
    for param, precision in zip(params, PRECISIONS, strict=True):
        assert {v.dtype for v in optimizer.state[param].values()} == STATE_DTYPES[precision]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_lr_may_be_a_tensor_that_changes(path, shape):
    by_tensor, by_number = one_param(size=300), one_param(size=300)
    lr = torch.full(shape, 0.1)
    one = PowerStep([by_tensor], lr=lr, weight_decay=0.1, **path)
    other = PowerStep([by_number], lr=0.1, weight_decay=0.1, **path)
    for value in (0.1, 0.05, 0.2):
        lr.fill_(value)
        other.param_groups[0]["lr"] = value
        one.step()
        other.step()
    torch.testing.assert_close(by_tensor, by_number)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers_set_the_lr(path, tensor_lr):
    param = one_param(value=0.0, size=300)
    optimizer = PowerStep([param], lr=torch.tensor(1.0) if tensor_lr else 1.0, beta=0.0, **path)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert param.tolist() == pytest.approx([-(1 + 0.5 + 0.25)] * 300)


@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        (OneCycleLR, {"max_lr": 0.1, "total_steps": 10}),
        (CyclicLR, {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3}),
    ],
)
@pytest.mark.parametrize(
    ("optimizer_class", "ours"),
    [(PowerStep, {"beta": 1.0}), (PbSGDM, {"beta": 1.0}), (SignSGD, {})],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_schedulers_cycle_the_momentum_as_of_torchs_sgd(
    scheduler, arguments, optimizer_class, ours, resumed
):
    param, theirs = one_param(), one_param()
    optimizer = optimizer_class([param], lr=0.1, **ours)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    schedulers = [scheduler(each, **arguments) for each in (optimizer, sgd)]
    for _ in range(8):
        optimizer.step()
        sgd.step()
        for each in schedulers:
            each.step()
        if resumed:  # after the scheduler's step, before the optimizer's next one
            state = saved_and_loaded(optimizer.state_dict())
            assert state["param_groups"][0]["gamma"] == sgd.param_groups[0]["momentum"]
            optimizer.load_state_dict(state)
    ours, expected = optimizer.state[param]["momentum"], sgd.state[theirs]["momentum_buffer"]
    torch.testing.assert_close(ours, expected)
    if optimizer_class is not SignSGD:
        torch.testing.assert_close(param, theirs)


def test_momentum_in_a_group_is_gamma():
    optimizer = PowerStep([{"params": one_param(), "momentum": 0.5}, {"params": one_param()}], lr=1)
    assert [group["gamma"] for group in optimizer.param_groups] == [0.5, 0.9]
    optimizer.param_groups[1]["momentum"] = 0.7
    optimizer.step()
    assert [group["gamma"] for group in optimizer.param_groups] == [0.5, 0.7]
    assert not any("momentum" in group for group in optimizer.param_groups)


# --- what a parameter can be ------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_parameters_and_gradients_may_lie_in_any_order_in_memory(path):
    generator = torch.Generator().manual_seed(0)
    values, grads = torch.randn(2, 6, 5, 64, generator=generator)
    results = []
    for permuted in (False, True):
        param = nn.Parameter(values.clone())
        param.grad = grads.clone()
        if permuted:
            param = nn.Parameter(values.permute(2, 0, 1).contiguous().permute(1, 2, 0))
            param.grad = grads.transpose(0, 1).contiguous().transpose(0, 1)
            assert not param.is_contiguous()
        optimizer = PowerStep([param], lr=0.1, state_precision="int8", block_size=32, **path)
        optimizer.step()
        optimizer.step()
        results.append(param.detach().contiguous())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_parameters_of_no_dimensions_or_no_elements_are_stepped(optimizer_class):
    scalar, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(3, 0))
    scalar.grad, empty.grad = torch.tensor(1.0), torch.zeros(3, 0)
    optimizer = optimizer_class([scalar, empty], lr=0.1)
    optimizer.step()
    assert scalar.item() < 1
    optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    optimizer.step()


@pytest.mark.parametrize("path", PATHS)
def test_dtypes_may_be_mixed(path):
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    params = [nn.Parameter(torch.ones(300, dtype=dtype)) for dtype in dtypes]
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    PowerStep(params, lr=0.125, beta=0.0, **path).step()
    for param, dtype in zip(params, dtypes, strict=True):
        assert param.dtype == dtype
        assert param.tolist() == [0.875] * 300


def test_fp64_parameters_keep_their_precision():
    param = nn.Parameter(torch.full((4,), 1 / 3, dtype=torch.float64))
    param.grad = torch.ones_like(param)
    PowerStep([param], lr=2**-30, beta=0.0).step()
    assert param.tolist() == [1 / 3 - 2**-30] * 4


def test_parameters_on_the_meta_device_are_stepped():
    param = nn.Parameter(torch.empty(300, 256, device="meta"))
    param.grad = torch.empty_like(param)
    optimizer = PowerStep([param], lr=0.1, state_precision="int8")
    optimizer.step()
    assert {v.device.type for v in optimizer.state[param].values()} == {"meta"}


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_sparse_gradients_are_refused(optimizer_class):
    param = nn.Parameter(torch.ones(4, 2))
    param.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match=f"{optimizer_class.__name__} .* sparse"):
        optimizer_class([param], lr=0.1).step()


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_complex_parameters_are_refused(optimizer_class):
    param = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    with pytest.raises(
        ValueError, match=f"{optimizer_class.__name__} .* complex .* torch.view_as_real"
    ):
        optimizer_class([param], lr=0.1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_with_its_own_element(bad, beta, path):
    param = one_param(size=300)
    param.grad[7] = bad
    optimizer = PowerStep([param], lr=0.1, beta=beta, **path)
    optimizer.step()
    if beta == 0 and bad == bad:  # the sign of an infinity is finite
        assert param[7].item() == pytest.approx(0.9 if bad > 0 else 1.1)
    elif bad == bad:
        assert param[7].item() == -bad
    else:
        assert param[7].isnan()
    others = torch.arange(300) != 7
    assert param[others].isfinite().all()
    assert not optimizer.state[param]["momentum"][7].isfinite()  # and it stays in the momentum


# --- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loaded_state_goes_on_bit_for_bit(precision, dtype):
    model = linear(dtype)
    optimizer = PowerStep(model.parameters(), lr=1e-2, state_precision=precision)
    take_steps(model, optimizer, 5)
    weights, state = saved_and_loaded([model.state_dict(), optimizer.state_dict()])
    take_steps(model, optimizer, 5, seed=1)

    resumed = linear(dtype)
    resumed.load_state_dict(weights)
    again = PowerStep(resumed.parameters(), lr=1e-2, state_precision=precision)
    again.load_state_dict(state)
    for param in resumed.parameters():
        assert {value.dtype for value in again.state[param].values()} == STATE_DTYPES[precision]
    for index, values in again.state_dict()["state"].items():
        assert all(torch.equal(values[k], state["state"][index][k]) for k in values)
    take_steps(resumed, again, 5, seed=1)
    assert_same_weights(resumed, model)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_every_optimizer_resumes_bit_for_bit(optimizer_class):
    model = linear(torch.bfloat16)
    optimizer = optimizer_class(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, 5)
    weights, state = saved_and_loaded([model.state_dict(), optimizer.state_dict()])
    take_steps(model, optimizer, 5, seed=1)
    resumed = linear(torch.bfloat16)
    resumed.load_state_dict(weights)
    again = optimizer_class(resumed.parameters(), lr=1e-2)
    again.load_state_dict(state)
    take_steps(resumed, again, 5, seed=1)
    assert_same_weights(resumed, model)


@given(
    shape=st.lists(st.integers(0, 30), max_size=3),
    precision=st.sampled_from(PRECISIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    block_size=st.sampled_from([1, 5, 16, 128]),
)
def test_the_state_of_any_shape_survives_saving(shape, precision, dtype, block_size):
    generator = torch.Generator().manual_seed(0)
    param = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    param.grad = torch.randn(shape, generator=generator).to(dtype)
    optimizer = PowerStep([param], lr=0.1, state_precision=precision, block_size=block_size)
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[param].items()}
    optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    after = optimizer.state[param]
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(before[k].dtype == after[k].dtype for k in before)


def test_the_callers_load_hooks_are_heard():
    model = linear()
    optimizer = PowerStep(model.parameters(), lr=1e-2, state_precision="int8")
    take_steps(model, optimizer, 2)
    state = copy.deepcopy(optimizer.state_dict())
    seen = []

    def halve(_, given):
        given = copy.deepcopy(given)
        given["state"][0]["momentum_scales"] /= 2
        return given

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(
        lambda loaded: seen.append(loaded.state[model.weight]["momentum_codes"].dtype)
    )
    optimizer.load_state_dict(state)
    loaded = optimizer.state[model.weight]["momentum_scales"]
    assert torch.equal(loaded, state["state"][0]["momentum_scales"] / 2)
    assert seen == [torch.int8]


def test_state_and_pickles_without_newer_arguments_load():
    model = linear()
    optimizer = PowerStep(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, 2)
    first_release = {"lr", "gamma", "beta", "weight_decay", "state_precision", "block_size"}
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for name in set(group) - first_release - {"params"}:
            del group[name]
    again = PowerStep(model.parameters(), lr=1e-2)
    again.load_state_dict(state)
    take_steps(model, again, 1)

    for group in optimizer.param_groups:
        for name in set(group) - first_release - {"params"}:
            del group[name]
    take_steps(model, pickle.loads(pickle.dumps(optimizer)), 1)


def test_scales_of_the_first_release_load():
    # The first release stored scales flat; now they have the parameter's shape with a shorter last
    # dimension.
    param = nn.Parameter(torch.randn(4, 256, generator=torch.Generator().manual_seed(0)))
    param.grad = param.detach().clone()
    optimizer = PowerStep([param], lr=0.1, state_precision="int8")
    optimizer.step()
    twin = nn.Parameter(param.detach().clone())
    twin.grad = param.grad.clone()
    old = copy.deepcopy(optimizer.state_dict())
    old["state"][0]["momentum_scales"] = old["state"][0]["momentum_scales"].flatten()
    again = PowerStep([twin], lr=0.1, state_precision="int8")
    again.load_state_dict(old)
    optimizer.step()
    again.step()
    assert torch.equal(param, twin)


def test_names_of_parameters_are_kept():
    model = linear()
    optimizer = PowerStep(model.named_parameters(), lr=1e-2)
    take_steps(model, optimizer, 1)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    unnamed = PowerStep(model.parameters(), lr=1e-2)
    unnamed.load_state_dict(optimizer.state_dict())
    take_steps(model, unnamed, 1)


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_and_pickles_go_on_by_themselves(optimizer_class, duplicate):
    model = linear()
    optimizer = optimizer_class(model.parameters(), lr=1e-2)
    take_steps(model, optimizer, 2)
    twin = duplicate(optimizer)
    assert repr(twin) == repr(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    for param in twin.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    twin.step()
    for param, value, other in zip(
        model.parameters(), before, twin.param_groups[0]["params"], strict=True
    ):
        assert torch.equal(param, value)
        assert not torch.equal(other, value)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", 4), ("bf16", 2), ("int8", 1 + 4 / 128), ("int4", 0.5 + 4 / 128)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_bytes_per_parameter(precision, expected, dtype):
    param = nn.Parameter(torch.zeros(64, 128, dtype=dtype))
    param.grad = torch.ones_like(param)
    optimizer = PowerStep([param], lr=1e-3, state_precision=precision)
    optimizer.step()
    size = sum(v.numel() * v.element_size() for v in optimizer.state[param].values())
    assert size / param.numel() == expected


# --- hooks, groups added later, messages ------------------------------------------------------


def test_step_hooks_run_before_and_after():
    param, calls = one_param(), []
    optimizer = PowerStep([param], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: calls.append(("before", param[0].item())))
    optimizer.register_step_post_hook(lambda *_: calls.append(("after", param[0].item())))
    optimizer.step()
    assert calls == [("before", 1.0), ("after", param[0].item())]


def test_a_group_added_later_is_stepped():
    first, later = one_param(), one_param()
    optimizer = PowerStep([first], lr=0.1)
    optimizer.step()
    optimizer.add_param_group({"params": later, "lr": 0.2})
    optimizer.step()
    assert (later < 1).all()


def test_repr_names_every_argument():
    text = repr(PowerStep([one_param()], lr=0.1, state_precision="int4"))
    for words in ("PowerStep", "lr: 0.1", "gamma: 0.9", "beta: 0.1", "state_precision: int4"):
        assert words in text


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -1.0),
        ("lr", torch.tensor([0.1, 0.2])),
        ("gamma", 1.5),
        ("beta", -0.1),
        ("beta", 1.1),
        ("weight_decay", -0.1),
        ("state_precision", "int3"),
        ("block_size", 0),
        ("maximize", "yes"),
        ("stochastic_rounding", 2),
        ("foreach", "no"),
        ("compiled", 3),
    ],
)
def test_values_out_of_range_are_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} is .*, but it must be"):
        PowerStep([nn.Parameter(torch.zeros(1))], **{"lr": 0.1} | {argument: value})
    with pytest.raises(ValueError, match=f"^{argument} is"):
        PowerStep([{"params": [nn.Parameter(torch.zeros(1))], argument: value}], lr=0.1)


def test_a_refused_group_is_not_added():
    optimizer = PowerStep([one_param()], lr=0.1)
    bad = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="complex"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_a_graph_that_needs_the_old_parameters_is_refused(cls):
    param = nn.Parameter(torch.ones(300))
    optimizer = cls([param], lr=0.1)
    loss = (param * param).sum()
    param.grad = torch.ones_like(param)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
