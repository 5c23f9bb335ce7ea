"""Saved, cast or outdated state is either used correctly or rejected with a clear message."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from powerstep import PowerStep
from powerstep.baselines import (
    AdamS,
    MuonAdamW,
    MuonPowerStep,
    NaiveAdamWInt8,
    PbSGDM,
    SignSGD,
    Stacey,
)
from tests.powerstep import oracle

PRECISIONS = ["fp32", "bf16", "int8", "int4"]
ELEMENTWISE = [PowerStep, AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey]
MUON = [MuonAdamW, MuonPowerStep]


def stepped(optimizer, seed=0):
    """Take a step on random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
    optimizer.step()
    return optimizer


def one(*shape, optimizer=PowerStep, **arguments):
    """Return a parameter named "w", and its optimizer after one step."""
    param = nn.Parameter(torch.zeros(shape))
    return param, stepped(optimizer([("w", param)], lr=0.1, **arguments))


def saved(optimizer):
    """Save the state dict to a file, and return the loaded one."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_refused(optimizer, state_dict, match):
    params = [param for group in optimizer.param_groups for param in group["params"]]
    before = copy.deepcopy([optimizer.state[param] for param in params])
    groups = repr(optimizer)
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(state_dict)
    torch.testing.assert_close([optimizer.state[p] for p in params], before, rtol=0, atol=0)
    assert repr(optimizer) == groups


# --- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [((5, 4), (3, 4)), ((4, 6), (6, 4)), ((3, 4), (5, 4)), ((24,), (4, 6)), ((300,), (200,))],
)
def test_a_state_of_another_shape_is_refused_by_the_parameters_name(precision, theirs, ours):
    _, source = one(*theirs, state_precision=precision)
    _, target = one(*ours, state_precision=precision)
    assert_refused(target, saved(source), r"parameter 'w': momentum\w* has shape .* must have")


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_every_optimizer_refuses_a_state_of_another_shape(optimizer):
    _, source = one(5, 4, optimizer=optimizer)
    _, target = one(3, 4, optimizer=optimizer)
    assert_refused(target, saved(source), r"parameter 'w': .* has shape \(5, 4\), .* \(3, 4\)")


@pytest.mark.parametrize("optimizer", MUON)
def test_muon_refuses_matrices_of_another_shape(optimizer):
    source, target = (
        stepped(optimizer(nn.Linear(width, 4).named_parameters(), 0.1)) for width in (6, 8)
    )
    assert_refused(target, saved(source), r"parameter 'weight': momentum has shape \(4, 6\)")


def test_parameters_without_names_are_named_by_their_place():
    source, target = (
        stepped(PowerStep([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(n))], lr=0.1))
        for n in (3, 4)
    )
    assert_refused(target, saved(source), "^parameter 1 of group 0: momentum has shape")


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_a_replaced_parameter_is_told_before_any_has_moved(optimizer):
    first, second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(5, 4))
    made = stepped(optimizer([{"params": [first]}, {"params": [second]}], lr=0.1))
    before = first.detach().clone()
    second.data = torch.ones(3, 4)
    second.grad = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"parameter 0 of group 1: .* has shape \(5, 4\)"):
        made.step()
    assert torch.equal(first, before)


def test_a_gradient_left_from_another_shape_is_told():
    param, optimizer = one(5, 4)
    optimizer.state.clear()
    param.data = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"its gradient has shape \(5, 4\), but it must have"):
        optimizer.step()


@pytest.mark.parametrize("block_size", [64, 256])
def test_blocks_of_another_size_are_refused(block_size):
    _, optimizer = one(4, 256, state_precision="int8")
    optimizer.param_groups[0]["block_size"] = block_size
    with pytest.raises(ValueError, match=r"momentum_scales has shape \(4, 2\), but it must have"):
        optimizer.step()


# --- dtypes -----------------------------------------------------------------------------------


def cast(state_dict, dtype):
    state_dict = copy.deepcopy(state_dict)
    for values in state_dict["state"].values():
        for key, value in values.items():
            if value.is_floating_point() and key != "step":
                values[key] = value.to(dtype)
    return state_dict


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_state_cast_elsewhere_goes_on_as_one_of_those_values(optimizer, dtype):
    _, source = one(300, optimizer=optimizer)
    state_dict = cast(saved(source), dtype)
    results = []
    for given in (state_dict, cast(state_dict, torch.float32)):
        param, made = one(300, optimizer=optimizer)
        made.load_state_dict(given)
        assert all(v.dtype in (torch.float32, torch.int8) for v in made.state[param].values())
        for seed in range(3):
            stepped(made, seed)
        results.append([param.detach(), made.state[param]])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", MUON)
def test_a_state_of_muons_that_was_cast_goes_on(optimizer):
    model = nn.Linear(6, 4)
    made = stepped(optimizer(model.named_parameters(), 0.1))
    made.load_state_dict(cast(saved(made), torch.float64))
    assert made.state[model.weight]["momentum"].dtype == torch.float32
    stepped(made)


@pytest.mark.parametrize("path", [{"compiled": False}, {"foreach": True}])
@pytest.mark.parametrize("after", PRECISIONS)
@pytest.mark.parametrize("before", PRECISIONS)
def test_the_precision_of_a_group_may_change(before, after, path):
    def stored(values, precision):
        if precision.startswith("int"):
            bits = int(precision[3:])
            return oracle.dequantize(*oracle.quantize(values, bits=bits), bits=bits)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        return torch.tensor(values).to(dtype).double().numpy()

    param, optimizer = one(300, state_precision=before, **path)
    momentum = stored(stored(param.grad.double().numpy(), before), after)
    optimizer.param_groups[0]["state_precision"] = after
    for seed in (1, 2):
        start = param.detach().double().numpy()
        stepped(optimizer, seed)
        momentum = 0.9 * momentum + param.grad.double().numpy()
        expected = start - 0.1 * np.sign(momentum) * np.abs(momentum) ** 0.1
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-4, atol=1e-5)
        momentum = stored(momentum, after)
    names = {"momentum"} if after in ("fp32", "bf16") else {"momentum_codes", "momentum_scales"}
    assert set(optimizer.state[param]) == names


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int32])
def test_codes_of_another_dtype_are_refused(precision, dtype):
    _, optimizer = one(300, state_precision=precision)
    state_dict = saved(optimizer)
    state_dict["state"][0]["momentum_codes"] = state_dict["state"][0]["momentum_codes"].to(dtype)
    assert_refused(optimizer, state_dict, f"momentum_codes has dtype {dtype}, but it must have")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_momentum_that_is_no_float_is_refused(dtype):
    _, optimizer = one(3)
    state_dict = saved(optimizer)
    state_dict["state"][0]["momentum"] = state_dict["state"][0]["momentum"].to(dtype)
    assert_refused(optimizer, state_dict, f"'w': momentum has dtype {dtype}, but it must have a")


def test_a_momentum_in_any_order_in_memory_is_loaded():
    param, optimizer = one(6, 4)
    state_dict = saved(optimizer)
    momentum = state_dict["state"][0]["momentum"]
    state_dict["state"][0]["momentum"] = momentum.t().contiguous().t()
    optimizer.load_state_dict(state_dict)
    assert torch.equal(optimizer.state[param]["momentum"], momentum)
    stepped(optimizer)


def test_a_loaded_state_is_a_copy():
    _, optimizer = one(3)
    state_dict = saved(optimizer)
    before = copy.deepcopy(state_dict)
    optimizer.load_state_dict(state_dict)
    stepped(optimizer)
    torch.testing.assert_close(state_dict["state"], before["state"], rtol=0, atol=0)


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3), torch.tensor([3.0]), torch.tensor(3.0)])
@pytest.mark.parametrize("optimizer", [AdamS, NaiveAdamWInt8])
def test_a_count_of_steps_may_be_any_number(optimizer, step):
    param, made = one(3, optimizer=optimizer)
    state_dict = saved(made)
    state_dict["state"][0]["step"] = step
    made.load_state_dict(state_dict)
    stepped(made)
    assert made.state[param]["step"].item() == 4


@pytest.mark.parametrize("step", [-1, 2.5, None, "3", torch.zeros(2), float("nan")])
def test_a_count_of_steps_that_is_none_is_refused(step):
    _, made = one(3, optimizer=AdamS)
    state_dict = saved(made)
    state_dict["state"][0]["step"] = step
    assert_refused(made, state_dict, "parameter 'w': step is .*, but it must be a whole number")


# --- parts and groups -------------------------------------------------------------------------


@pytest.mark.parametrize("other", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_another_optimizers_state_is_refused(optimizer, other):
    _, made = one(3, optimizer=optimizer)
    param = nn.Parameter(torch.zeros(3))
    arguments = {"momentum": 0.9} if other is torch.optim.SGD else {}
    theirs = saved(stepped(other([param], lr=0.1, **arguments)))
    assert_refused(made, theirs, "has no .* another optimizer$|but it must be one of int8")
    if other is not torch.optim.AdamW or optimizer not in (AdamS, NaiveAdamWInt8):
        theirs["param_groups"] = saved(made)["param_groups"]
        assert_refused(made, theirs, "parameter 'w': the state has .*, but it must have")


def test_signsgd_refuses_powersteps_exponent():
    _, source = one(3)
    _, target = one(3, optimizer=SignSGD)
    assert_refused(target, saved(source), "^beta is 0.1, but it must be one of 0")


@pytest.mark.parametrize("part", ["momentum_codes", "momentum_scales"])
def test_a_missing_part_is_refused(part):
    _, optimizer = one(3, state_precision="int8")
    state_dict = saved(optimizer)
    del state_dict["state"][0][part]
    assert_refused(
        optimizer, state_dict, "'w': the state has .* momentum_codes and momentum_scales"
    )


def test_what_else_a_state_has_is_kept():
    param, optimizer = one(3)
    state_dict = saved(optimizer)
    state_dict["state"][0] |= {"mine": torch.ones(2), "notes": ["a"]}
    optimizer.load_state_dict(state_dict)
    stepped(optimizer)
    assert optimizer.state[param]["mine"].tolist() == [1, 1]
    assert optimizer.state[param]["notes"] == ["a"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("beta", 2),
        ("lr", -1),
        ("gamma", float("nan")),
        ("weight_decay", None),
        ("block_size", 1.5),
        ("state_precision", "int3"),
        ("state_precision", ["fp32"]),
    ],
)
def test_values_of_groups_are_held_to_the_constructors_rules(argument, value):
    _, optimizer = one(3)
    state_dict = saved(optimizer)
    state_dict["param_groups"][0][argument] = value
    assert_refused(optimizer, state_dict, f"^{argument} is .*, but it must be")

    optimizer.param_groups[0][argument] = value
    pickled = pickle.dumps(optimizer)
    with pytest.raises(ValueError, match=f"^{argument} is .*, but it must be"):
        pickle.loads(pickled)


def test_a_group_without_a_value_is_refused():
    _, optimizer = one(3)
    state_dict = saved(optimizer)
    del state_dict["param_groups"][0]["gamma"]
    assert_refused(optimizer, state_dict, "a parameter group has no gamma, which PowerStep needs")


@pytest.mark.parametrize("sizes", [[2], [1, 1, 1], [2, 1]])
def test_other_groups_are_refused_as_by_torch(sizes):
    def made(sizes):
        groups = [{"params": [nn.Parameter(torch.zeros(3)) for _ in range(n)]} for n in sizes]
        return stepped(PowerStep(groups, lr=0.1))

    assert_refused(made([1, 2]), saved(made(sizes)), "loaded state dict")


def test_a_parameter_without_state_may_have_none_in_the_file():
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    optimizer = PowerStep(params, lr=0.1)
    params[1].grad = torch.ones(4)
    optimizer.step()
    again = PowerStep(params, lr=0.1)
    again.load_state_dict(saved(optimizer))
    assert not again.state.get(params[0])
    stepped(again)
    assert again.state[params[0]]["momentum"].shape == (3,)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_pickled_state_is_checked(duplicate):
    param, optimizer = one(300)
    optimizer.state[param]["momentum"] = optimizer.state[param]["momentum"].bfloat16()
    (twin,) = duplicate(optimizer).state.values()
    assert twin["momentum"].dtype == torch.float32
    optimizer.state[param]["momentum"] = torch.zeros(299)
    with pytest.raises(ValueError, match=r"parameter 'w': momentum has shape \(299,\)"):
        duplicate(optimizer)


def test_what_a_hook_of_the_callers_returns_is_checked():
    _, optimizer = one(3)

    def cut(_, given):
        return given | {"state": {0: {"momentum": given["state"][0]["momentum"][:2]}}}

    optimizer.register_load_state_dict_pre_hook(cut)
    assert_refused(optimizer, saved(optimizer), r"has shape \(2,\), but it must have \(3,\)")


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_parameters_of_other_dtypes_are_refused(optimizer, dtype):
    param = nn.Parameter(torch.zeros(4).to(dtype), requires_grad=False)
    with pytest.raises(ValueError, match=f"{optimizer.__name__} .* dtype {dtype}"):
        optimizer([param], lr=0.1)
