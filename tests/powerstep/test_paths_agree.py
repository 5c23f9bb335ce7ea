"""The foreach and the compiled path take the same steps as the single-tensor path."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import powerstep.compiled
import powerstep.optimizer
from powerstep import PowerStep


@pytest.fixture(autouse=True)
def kernels_for_the_smallest(monkeypatch):
    monkeypatch.setattr(powerstep.optimizer, "KERNEL_FROM", 0)


SHAPES = [(7, 256), (640,), (3, 130), (128, 5), (1,), (), (0, 4), (4, 3, 32)]


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def train(params, steps=4, seed=1, **arguments):
    """Take steps on gradients of very different sizes, and return parameters and state."""
    optimizer = PowerStep(params, **{"lr": 1e-2, "weight_decay": 0.1} | arguments)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params:
            scale = 10.0 ** torch.randint(-6, 3, param.shape, generator=generator)
            grad = torch.randn(param.shape, generator=generator) * scale
            grad[torch.rand(param.shape, generator=generator) < 0.1] = 0
            param.grad = grad.to(param.dtype)
        optimizer.step()
    return [param.detach() for param in params], [optimizer.state[param] for param in params]


def assert_agree(one, other, dtype, precision):
    # A fused multiply-add rounds the momentum once, two operations round it twice, and the compiled
    # power function has a relative error of up to 2e-6. A bf16 number or a code of a quantised
    # momentum may therefore differ by one unit, which affects the following steps.
    loose = dtype != torch.float32 or precision in ("bf16", "int8", "int4")
    for ours, theirs in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(
            ours.float(),
            theirs.float(),
            rtol=2**-7 if dtype == torch.bfloat16 else 1e-5,
            atol=1e-3 if loose else 1e-6,
        )
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert list(ours) == list(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].shape == theirs[name].shape
            if ours[name].dtype == torch.int8:
                assert (ours[name].int() - theirs[name].int()).abs().max().item() <= 1


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_agrees_with_the_single_path(dtype, precision):
    shapes = [shape for shape in SHAPES if shape != (0, 4)]
    single = train(parameters(shapes, dtype), state_precision=precision, compiled=False)
    kernel = train(parameters(shapes, dtype), state_precision=precision, compiled=True)
    assert_agree(single, kernel, dtype, precision)


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("maximize", [False, True])
def test_compiled_agrees_for_every_kind_of_exponent(beta, maximize):
    arguments = {"beta": beta, "maximize": maximize}
    single = train(parameters(), compiled=False, **arguments)
    kernel = train(parameters(), compiled=True, **arguments)
    assert_agree(single, kernel, torch.float32, "fp32")


@given(
    shapes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    precision=st.sampled_from(["fp32", "bf16", "int8", "int4"]),
    block_size=st.sampled_from([1, 32, 33, 128]),
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
    if block_size in (32, 128):  # each block size needs a kernel of its own
        kernel = train(parameters(shapes, dtype), steps=2, compiled=True, **arguments)
        for ours, theirs in zip(single[0], kernel[0], strict=True):
            tolerance = 2**-7 if dtype == torch.bfloat16 else 1e-5
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-3)


def test_large_parameters_are_stepped_piece_by_piece_as_if_whole(monkeypatch):
    shapes = [(50, 100), (999,)]
    for precision, compiled in itertools.product(["fp32", "int8", "int4"], [False, True]):
        arguments = {"state_precision": precision, "compiled": compiled, "block_size": 32}
        whole = train(parameters(shapes), **arguments)
        with monkeypatch.context() as patch:
            patch.setattr("powerstep.base.piece_limit", lambda device: 300)
            pieces = train(parameters(shapes), **arguments)
        for ours, theirs in zip(whole[0], pieces[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


def test_another_lr_or_shape_never_recompiles():
    def step(shapes, lr):
        params = parameters(shapes)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = PowerStep(params, lr=lr, compiled=True)
        optimizer.step()
        if isinstance(lr, float):
            optimizer.param_groups[0]["lr"] = lr / 2
        else:
            lr.mul_(0.5)
        optimizer.step()

    step([(4, 128)], 0.1)  # compiles unless an earlier test did
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in range(2, 40):  # far more than torch's recompile limit of 8
            step([(rows, 128), (3, rows, 256), (rows + 700,)], 0.1 / rows)
        step([(4, 128)], torch.tensor(0.3))


def test_the_default_compiles_large_models_only(monkeypatch):
    asked = []
    monkeypatch.setattr(powerstep.compiled, "kernel", lambda variant: asked.append(variant))
    monkeypatch.setattr(powerstep.optimizer, "COMPILE_FROM", 1000)
    train(parameters([(9, 111)]))
    assert not asked
    train(parameters([(9, 100), (100,)]))
    assert asked
    asked.clear()
    train(parameters([(10, 100)]), compiled=False)
    assert not asked


def test_small_parameters_of_a_large_model_are_not_worth_a_kernel(monkeypatch):
    monkeypatch.setattr(powerstep.optimizer, "KERNEL_FROM", 1000)
    shapes = [(20, 30), (40, 30)]
    mixed = train(parameters(shapes), compiled=True)
    single = train(parameters(shapes), compiled=False)
    assert torch.equal(mixed[0][0], single[0][0])
    torch.testing.assert_close(mixed[0][1], single[0][1], rtol=1e-5, atol=1e-6)


def test_without_a_compiler_it_warns_once_and_steps_all_the_same(monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long explanation")

    powerstep.compiled.kernel.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            without = train(parameters(), compiled=True)
            train(parameters(), compiled=True)
    finally:
        powerstep.compiled.kernel.cache_clear()
    (warning,) = caught
    assert "No working C++ compiler found" in str(warning.message)
    assert "compiled=False" in str(warning.message)
    single = train(parameters(), compiled=False)
    assert all(torch.equal(a, b) for a, b in zip(without[0], single[0], strict=True))


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
