"""Takes steps with an entry of optimizers.yaml, and compares them with a formula."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from experiments.models.build import build_model
from experiments.models.settings import GPT2Settings
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.grouping import roles
from experiments.optimizers.modes import switch_mode
from experiments.optimizers.settings import optimizer_spec
from experiments.plan.reading import load_profile

LR, WEIGHT_DECAY, STEPS, WARM_UP = 1e-2, 0.1, 12, 3
MODEL = GPT2Settings(family="gpt2", layers=1, width=8, heads=2, context=8, vocab_size=16)
ENTRIES = load_profile("laptop").optimizers


def build(name, model, lr=LR):
    """Build the optimizer of an entry; the test is skipped if its library is not installed."""
    for path in ENTRIES[name].classes:
        library = path.split(".")[0]
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed: make test-field")
    spec = optimizer_spec(name, ENTRIES[name], MODEL, steps=STEPS - 4)
    return build_optimizer(spec, model, lr, WEIGHT_DECAY)


def gradients(model):
    """Return random gradients of each step, by the parameter's name; they have a common part."""
    generator = torch.Generator().manual_seed(1)

    def draw():
        return {
            name: torch.randn(param.shape, generator=generator) * 0.1
            for name, param in model.named_parameters()
        }

    common = draw()
    return [{name: common[name] + own for name, own in draw().items()} for _ in range(STEPS)]


def learning_rates(lr):
    """Return the learning rate of each step: a warm-up, then a constant."""
    return [lr * min(1.0, (step + 1) / WARM_UP) for step in range(STEPS)]


def in_float64(tensors):
    """Return tensors as NumPy arrays in float64."""
    return {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}


def take_steps(name, model, lr=LR):
    """Take all steps with an entry's optimizer, which is returned in training mode."""
    history = gradients(model)
    optimizer = build(name, model, lr)
    schedule = LambdaLR(optimizer, lambda step: learning_rates(1.0)[min(step, STEPS - 1)])
    switch_mode(optimizer, train=True)
    for grads in history:
        for key, param in model.named_parameters():
            param.grad = grads[key].clone()
        optimizer.step()
        schedule.step()
    return optimizer


def assert_moved(model, start, expected, tolerance):
    """Assert that parameters moved as expected; the error is relative to the way that they went."""
    for key, param in model.named_parameters():
        if key in expected:
            error = np.linalg.norm(param.detach().double().numpy() - expected[key])
            way = np.linalg.norm(expected[key] - start[key])
            assert way > 0
            assert error < tolerance * way, f"{key}: {error / way:.2g} of its way"


def assert_takes_the_steps_of(oracle, name, tolerance=1e-4, compared=lambda theta: True):
    """Assert that an entry steps as a formula says.

    Args:
        oracle: returns a parameter after all steps, given its role, its start, the gradients and
            the learning rates.
        name: name of the entry.
        tolerance: accepted error, relative to the way of the parameter.
        compared: says whether a parameter is compared.
    """
    torch.manual_seed(0)
    model = build_model(MODEL)
    start = in_float64(dict(model.named_parameters()))
    history = [in_float64(grads) for grads in gradients(model)]
    take_steps(name, model)
    expected = {
        key: oracle(role, start[key], [grads[key] for grads in history], learning_rates(LR))
        for key, role in roles(model).items()
        if compared(start[key])
    }
    assert_moved(model, start, expected, tolerance)


def decay(theta):
    """Return the weight decay of a parameter: vectors have none."""
    return WEIGHT_DECAY if theta.ndim >= 2 else 0.0


def adamw(theta, grads, lrs, cautious=False):
    """Return a parameter after the steps of Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2.

    A cautious step leaves out elements whose sign is not the gradient's, and is scaled up by the
    number of elements over one more than those left (Liang et al., arXiv:2411.16085).
    """
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        if cautious:
            kept = update * g > 0
            update = update * kept * kept.size / (kept.sum() + 1)
        theta = theta - lr * (update + decay(theta) * theta)
    return theta
