"""Triton kernels on a GPU agree with torch's operations, never wait, and can be recorded."""

import pytest
import torch

from powerstep import PowerStep
from powerstep.baselines import AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey
from tests.powerstep.test_paths_agree import (
    BASELINES,
    SHAPES,
    assert_agree,
    assert_powers_of_subnormal_numbers_agree,
    train,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
PRECISIONS = ["fp32", "bf16", "int8", "int4"]


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype).cuda()) for s in shapes
    ]


def on_cpu(trained):
    params, states = trained
    moved = [{name: part.cpu() for name, part in state.items()} for state in states]
    return [param.cpu() for param in params], moved


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", [{"compiled": True}, {"foreach": True, "compiled": False}])
def test_all_paths_agree(precision, dtype, path):
    eager = {"foreach": False, "compiled": False}
    trained = [
        on_cpu(train(parameters(dtype), state_precision=precision, **arguments))
        for arguments in (eager, path)
    ]
    assert_agree(*trained, dtype, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_momentum_is_the_same_bit_for_bit(precision):
    (_, eager), (_, kernel) = (
        train(parameters(), compiled=compiled, state_precision=precision)
        for compiled in (False, True)
    )
    for ours, theirs in zip(kernel, eager, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_powers_of_subnormal_numbers_agree():
    assert_powers_of_subnormal_numbers_agree("cuda")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_agree(name):
    cls, arguments = BASELINES[name]
    trained = [
        on_cpu(train(parameters(), cls=cls, compiled=compiled, **arguments))
        for compiled in (False, True)
    ]
    assert_agree(*trained, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_steps_as_a_cpu(precision):
    on_gpu = train(parameters(), state_precision=precision)
    params = [torch.nn.Parameter(param.detach().cpu()) for param in parameters()]
    assert_agree(train(params, state_precision=precision), on_cpu(on_gpu), atol=1e-6)


@pytest.mark.parametrize("cls", [PowerStep, SignSGD, AdamS, PbSGDM, Stacey, NaiveAdamWInt8])
def test_a_step_waits_for_nothing(cls):
    params = parameters()
    optimizer = cls(params, lr=0.01)
    for number in range(4):
        for param in params:
            param.grad = torch.full_like(param, 1 + number)
        if number == 2:
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
            optimizer.param_groups[0]["lr"] /= 2
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("cls", [PowerStep, AdamS, NaiveAdamWInt8])
def test_a_cuda_graph_takes_the_same_steps(cls):
    def stepped(recorded):
        lr = torch.tensor(0.1, device="cuda")
        params = parameters(shapes=[(64, 96), (40,)])
        optimizer = cls(params, lr=lr)
        optimizer.param_groups[0]["capturable"] = True
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()  # makes the state, and compiles
        step = optimizer.step
        if recorded:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            step = graph.replay
        for number in range(5):
            lr.fill_(0.1 / (number + 1))
            for param in params:
                param.grad.fill_(number - 2)
            step()
        return [param.detach() for param in params]

    torch.testing.assert_close(stepped(True), stepped(False))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_state_takes_the_bytes_that_the_allocator_gives(precision):
    param = torch.nn.Parameter(torch.zeros(1024, 1024, device="cuda"))
    param.grad = torch.ones_like(param)
    optimizer = PowerStep([param], lr=0.1, state_precision=precision)
    optimizer.step()
    optimizer.state.clear()
    before = torch.cuda.memory_allocated()
    optimizer.step()
    state = sum(part.nbytes for part in optimizer.state[param].values())
    assert torch.cuda.memory_allocated() - before == state
