"""The foreach path and the kernels take the same steps as the eager path."""

import copy
import subprocess
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
from powerstep.kernels import step as kernels
from powerstep.kernels.c_library import library

SHAPES = [(7, 256), (640,), (3, 130), (128, 5), (1,), (), (0, 4), (4, 3, 32)]


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def train(params, steps=4, seed=1, cls=PowerStep, **arguments):
    """Take steps on gradients of very different sizes, and return parameters and state."""
    in_groups = {name: arguments.pop(name) for name in ("compiled",) if name in arguments}
    optimizer = cls(params, **{"lr": 1e-2, "weight_decay": 0.1} | arguments)
    for group in optimizer.param_groups:
        group |= in_groups
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that devices compare
    for _ in range(steps):
        for param in params:
            scale = 10.0 ** torch.randint(-6, 3, param.shape, generator=generator)
            grad = torch.randn(param.shape, generator=generator) * scale
            grad[torch.rand(param.shape, generator=generator) < 0.1] = 0
            param.grad = grad.to(param)
        optimizer.step()
    return [param.detach() for param in params], [optimizer.state[param] for param in params]


def assert_agree(one, other, dtype=torch.float32, atol=0.0):
    """Check that parameters and state are nearly equal; `atol` is the tolerance of the state.

    PowerStep's momentum takes no power, and both paths round it alike.
    """
    # The kernels' power function has a relative error of up to 2e-6, so a bf16 number may differ by
    # one unit.
    rtol = 2**-7 if dtype == torch.bfloat16 else 1e-5
    for ours, theirs in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(
            ours.float(),
            theirs.float(),
            rtol=rtol,
            atol=1e-6 if dtype == torch.float32 else 1e-3,
        )
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].shape == theirs[name].shape
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=atol)


def assert_kernels_agree(shapes=SHAPES, dtype=torch.float32, atol=0.0, **arguments):
    """Check that kernels and the eager path train alike; `arguments` are those of `train`."""
    eager, kernel = (
        train(parameters(shapes, dtype), compiled=compiled, **arguments)
        for compiled in (False, True)
    )
    assert_agree(eager, kernel, dtype, atol)


def assert_powers_of_subnormal_numbers_agree(device):
    moved = []
    for compiled in (False, True):
        param = torch.nn.Parameter(torch.zeros(6, device=device))
        param.grad = torch.tensor([1e-38, -1e-40, 1.4e-45, 0.0, -0.0, 1.2e-38], device=device)
        PowerStep([param], lr=1.0, compiled=compiled).step()
        moved.append(param.detach())
    torch.testing.assert_close(*moved, rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_foreach_is_the_single_path_bit_for_bit(dtype, precision):
    single = train(parameters(dtype=dtype), state_precision=precision, compiled=False)
    several = train(parameters(dtype=dtype), state_precision=precision, foreach=True)
    for ours, theirs in zip(single[0], several[0], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(single[1], several[1], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_agree_with_the_eager_path(dtype, precision):
    assert_kernels_agree(dtype=dtype, state_precision=precision)


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("maximize", [False, True])
def test_kernels_agree_for_every_kind_of_exponent(beta, maximize):
    assert_kernels_agree(beta=beta, maximize=maximize)


def test_powers_of_subnormal_numbers_agree():
    assert_powers_of_subnormal_numbers_agree("cpu")


BASELINES = {
    "SignSGD": (SignSGD, {}),
    "AdamS": (AdamS, {}),
    "AdamS, bias corrected": (AdamS, {"bias_corrected": True}),
    "pbSGDM": (PbSGDM, {}),
    "pbSGDM, coupled": (PbSGDM, {"decay_in_momentum": True, "beta": 0.9}),
    "Stacey": (Stacey, {}),
    "Stacey, dual": (Stacey, {"dual_in_direction": True}),
    "Stacey, p = 2": (Stacey, {"p": 2.0}),  # has no kernel
    "AdamW int8": (NaiveAdamWInt8, {"eps": 1e-3}),  # with less, some steps are as large as 1e8
}


@pytest.mark.parametrize("name", BASELINES)
def test_kernels_of_baselines_agree_with_the_eager_path(name):
    cls, arguments = BASELINES[name]
    assert_kernels_agree(cls=cls, atol=1e-6, **arguments)


@pytest.mark.parametrize("cls", [MuonAdamW, MuonPowerStep])
def test_kernels_of_muons_other_parameters_agree(cls):
    def trained(compiled):
        torch.manual_seed(0)
        model = torch.nn.ModuleDict(
            {"embed": torch.nn.Embedding(50, 8), "hidden": torch.nn.Linear(8, 8)}
        )
        optimizer = cls([*model.named_parameters()], lr=0.01, weight_decay=0.1)
        for group in optimizer.param_groups:
            group["compiled"] = compiled
        for _ in range(3):
            for param in model.parameters():
                param.grad = torch.randn_like(param)
            optimizer.step()
        return [param.detach() for param in model.parameters()]

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-5, atol=1e-6)


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    precision=st.sampled_from(["fp32", "bf16", "int8", "int4"]),
    block_size=st.sampled_from([1, 2, 32, 33, 128]),
    beta=st.sampled_from([0.1, 0.3]),
)
@settings(max_examples=60)
def test_any_shapes_agree_on_all_paths(shapes, dtype, precision, block_size, beta):
    arguments = {"state_precision": precision, "block_size": block_size, "beta": beta}
    shapes = [tuple(shape) for shape in shapes]
    single = train(parameters(shapes, dtype), steps=2, compiled=False, **arguments)
    several = train(parameters(shapes, dtype), steps=2, foreach=True, **arguments)
    for ours, theirs in zip(single[0], several[0], strict=True):
        assert torch.equal(ours, theirs)
    assert_kernels_agree(shapes, dtype, steps=2, **arguments)


def test_large_parameters_are_stepped_piece_by_piece_as_if_whole(monkeypatch):
    shapes = [(50, 100), (999,)]
    for precision in ["fp32", "int8", "int4"]:
        arguments = {"state_precision": precision, "compiled": False, "block_size": 32}
        whole = train(parameters(shapes), **arguments)
        with monkeypatch.context() as patch:
            patch.setattr("powerstep.base.piece_limit", lambda device: 300)
            pieces = train(parameters(shapes), **arguments)
        for ours, theirs in zip(whole[0], pieces[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_parameter_of_many_chunks_is_stepped_whole(precision, threads):
    shapes = [(3, 2**16 + 77), (2**15,)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_kernels_agree(shapes, steps=2, state_precision=precision)
    finally:
        torch.set_num_threads(before)


def test_nan_and_infinite_gradients_have_the_same_effect():
    def stepped(compiled, precision):
        param = torch.nn.Parameter(torch.ones(512))
        param.grad = torch.ones(512)
        param.grad[5], param.grad[200], param.grad[300] = torch.tensor(
            [torch.nan, torch.inf, -1e38]
        )
        optimizer = PowerStep([param], lr=0.1, state_precision=precision, compiled=compiled)
        optimizer.step()
        optimizer.step()
        return param.detach()

    for precision in ("fp32", "bf16", "int8", "int4"):
        ours, theirs = stepped(True, precision), stepped(False, precision)
        assert not theirs.isfinite().all()
        # Finite momentums above 2^104 have a smaller power in a kernel.
        ours[300] = theirs[300] = 0
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def compilations(monkeypatch):
    """Return a list to which each call of the C compiler is appended."""
    library.cache_clear()
    kernels._compiled.cache_clear()
    calls, run = [], subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **kwargs: calls.append(command) or run(command, **kwargs)
    )
    return calls


def test_a_kernel_is_compiled_once_for_all_shapes_rates_and_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("powerstep.kernels.cache.cache_folder", lambda: tmp_path)
    calls = compilations(monkeypatch)
    for rows in range(1, 20):
        params = parameters([(rows, 128), (3, rows, 256), (rows + 700,)])
        train(params, lr=0.1 / rows, gamma=0.9 + rows / 1000, weight_decay=0.01 * rows)
        train(params, lr=torch.tensor(0.1 / rows))
    assert len(calls) == 1
    compilations(monkeypatch)  # as in another process
    train(parameters())
    assert len(calls) == 1


def test_parameters_may_appear_freeze_and_have_no_gradient():
    def trained(compiled):
        params = parameters([(40, 10), (30,), (20, 20)])
        optimizer = AdamS(params[:2], lr=0.01, bias_corrected=True)
        for step in range(6):
            if step == 2:
                optimizer.add_param_group({"params": params[2:], "lr": 0.1})
            for group in optimizer.param_groups:
                group["compiled"] = compiled
            for number, param in enumerate(params):
                generator = torch.Generator().manual_seed(10 * step + number)
                has_grad = (step + number) % 3 > 0
                param.grad = torch.randn(param.shape, generator=generator) if has_grad else None
            params[0].requires_grad_(step < 4)
            optimizer.step()
        steps = [optimizer.state[param]["step"].item() for param in params]
        return [param.detach() for param in params], steps

    ours, theirs = trained(True), trained(False)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    assert ours[1] == theirs[1]
    assert len(set(ours[1])) > 1


def test_parameters_without_a_kernel_take_the_eager_path():
    def trained(compiled):
        torch.manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(6, 8).t()),  # not contiguous
            torch.nn.Parameter(torch.randn(8, 6)),
            torch.nn.Parameter(torch.randn(8, 6, dtype=torch.float64)),
        ]
        optimizer = PowerStep(params, lr=0.01, compiled=compiled)
        for _ in range(3):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        return [param.detach() for param in params]

    ours, theirs = trained(True), trained(False)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert torch.equal(ours[2], theirs[2])


def test_a_capturable_optimizer_takes_the_same_steps():
    for cls in (PowerStep, AdamS, NaiveAdamWInt8):
        trained = []
        for capturable in (False, True):
            params = parameters([(20, 30)])
            optimizer = cls(params, lr=torch.tensor(0.01))
            optimizer.param_groups[0]["capturable"] = capturable
            for seed in range(4):
                params[0].grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed))
                optimizer.step()
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            trained.append(params[0].detach())
        torch.testing.assert_close(*trained)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_warns_once_and_steps_all_the_same(monkeypatch, tmp_path, compiler):
    monkeypatch.setattr("powerstep.kernels.cache.cache_folder", lambda: tmp_path)
    monkeypatch.setenv("CC", compiler)
    compilations(monkeypatch)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            without = train(parameters(), compiled=True)
            train(parameters())
    finally:
        library.cache_clear()
        kernels._compiled.cache_clear()
    (warning,) = caught
    assert compiler in str(warning.message)
    assert "compiled=False" in str(warning.message)
    eager = train(parameters(), compiled=False)
    assert all(torch.equal(a, b) for a, b in zip(without[0], eager[0], strict=True))


def test_asking_for_two_paths_is_refused():
    with pytest.raises(ValueError, match="foreach and compiled are both True"):
        PowerStep(parameters(), lr=0.1, foreach=True, compiled=True)
    with pytest.raises(ValueError, match="foreach and compiled are both True"):
        PowerStep([{"params": parameters(), "foreach": True}], lr=0.1, compiled=True)
    optimizer = PowerStep(parameters(), lr=0.1, compiled=True)
    state = optimizer.state_dict()
    state["param_groups"][0]["foreach"] = True
    with pytest.raises(ValueError, match="foreach and compiled are both True"):
        optimizer.load_state_dict(state)


def test_a_step_inside_a_compiled_function_agrees():
    def trained(compiled):
        (param,) = params = parameters([(4, 64)])
        optimizer = PowerStep(params, lr=0.01)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for seed in range(3):
            param.grad = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
            step()
        return param.detach()

    torch.testing.assert_close(trained(True), trained(False))
