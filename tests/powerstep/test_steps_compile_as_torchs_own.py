"""`torch.compile(optimizer.step)` takes the same steps, with no more graphs than torch's AdamW."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

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

# torch gives this warning for every optimizer whose step is compiled.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function:UserWarning")

STEPS = 4
LRS = [0.01, torch.tensor(0.01)]
OURS = {
    **{cls.__name__: (cls, {}) for cls in (PowerStep, AdamS, NaiveAdamWInt8, PbSGDM, SignSGD)},
    **{cls.__name__: (cls, {}) for cls in (Stacey, MuonAdamW, MuonPowerStep)},
    "AdamS, bias corrected": (AdamS, {"bias_corrected": True}),
    "Stacey, dual": (Stacey, {"dual_in_direction": True}),
    "int4": (PowerStep, {"state_precision": "int4"}),
    "foreach": (PowerStep, {"foreach": True}),
}


def linear():
    torch.manual_seed(0)
    return nn.Linear(20, 20)


def trained(cls, lr, compiled, **arguments):
    """Take steps under a scheduler; return the parameters and how many graphs were compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = linear()
    optimizer = cls(model.named_parameters(), lr=copy.deepcopy(lr), **arguments)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        step()
        scheduler.step()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return [param.detach() for param in model.parameters()], graphs


@pytest.fixture(scope="module")
def graphs_of_adamw():
    return {type(lr): trained(torch.optim.AdamW, lr, compiled=True)[1] for lr in LRS}


@pytest.mark.parametrize("lr", LRS, ids=["number", "tensor"])
@pytest.mark.parametrize("name", OURS)
def test_a_schedule_compiles_no_more_graphs_than_of_adamw(name, lr, graphs_of_adamw):
    cls, arguments = OURS[name]
    params, graphs = trained(cls, lr, compiled=True, weight_decay=0.1, **arguments)
    assert 1 <= graphs <= graphs_of_adamw[type(lr)]
    eager, _ = trained(cls, lr, compiled=False, weight_decay=0.1, **arguments)
    torch.testing.assert_close(params, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lr", LRS, ids=["number", "tensor"])
def test_a_cycled_momentum_compiles_no_more_graphs_than_of_sgd(lr):
    def graphs(cls, **arguments):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = linear()
        optimizer = cls(model.parameters(), lr=copy.deepcopy(lr), **arguments)
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS + 1)
        step = torch.compile(optimizer.step, backend="aot_eager")
        for _ in range(STEPS):
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            step()
            scheduler.step()
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    assert graphs(PowerStep) <= graphs(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize("name", OURS)
def test_an_eager_step_never_reads_a_tensor_that_is_the_lr(name):
    # A tensor on the meta device has no value, so reading it would fail.
    cls, arguments = OURS[name]
    model = linear().to("meta")
    optimizer = cls(model.named_parameters(), lr=0.01, weight_decay=0.1, **arguments)
    for group in optimizer.param_groups:
        group["lr"] = torch.empty((), device="meta")
    for param in model.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step()
