"""Optimizers from libraries take the steps of their papers, as computed in NumPy.

Each oracle below follows the paper that its docstring names, not the library.
"""

import numpy as np
import pytest
import torch

from experiments.models.build import build_model
from experiments.models.settings import GPT2Settings
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.settings import OptimizerSpec, optimizer_spec
from experiments.optimizers.state_bytes import state_bytes
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError

LR, WEIGHT_DECAY, STEPS = 1e-2, 0.1, 12
MODEL = GPT2Settings(family="gpt2", layers=1, width=8, heads=2, context=8, vocab_size=16)
HEADS = {"q_proj": 2, "k_proj": 2}
REGISTRY = load_profile("laptop")
ENTRIES = {name: entry for name, entry in REGISTRY.optimizers.items() if not entry.extra}


def spec(name, **changes):
    return optimizer_spec(name, ENTRIES[name], MODEL, changes)


def decay(theta):
    return WEIGHT_DECAY if theta.ndim >= 2 else 0.0


def adamw(name, theta, grads):
    """Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        theta = theta - LR * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay(theta) * theta)
    return theta


def adam(name, theta, grads):
    """Kingma & Ba, arXiv:1412.6980, Algorithm 1, with the decay added to the gradient."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(grads, 1):
        g = g + decay(theta) * theta
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        theta = theta - LR * m_hat / (np.sqrt(v_hat) + 1e-8)
    return theta


def lion(name, theta, grads):
    """Chen et al., arXiv:2302.06675, Program 1, with section 5's betas for language models."""
    m = np.zeros_like(theta)
    for g in grads:
        update = np.sign(0.95 * m + 0.05 * g)
        theta = theta - LR * (update + decay(theta) * theta)
        m = 0.98 * m + 0.02 * g
    return theta


def adafactor(name, theta, grads):
    """Shazeer & Stern, arXiv:1804.04235, Algorithms 4 and 5, with the absolute step size LR."""

    def rms(x):
        return np.sqrt(np.mean(x**2))

    row = col = full = 0.0
    for t, g in enumerate(grads, 1):
        beta2 = 1 - t**-0.8
        square = g**2 + 1e-30
        if theta.ndim >= 2:
            row = beta2 * row + (1 - beta2) * square.sum(axis=1)
            col = beta2 * col + (1 - beta2) * square.sum(axis=0)
            v = np.outer(row, col) / row.sum()
        else:
            v = full = beta2 * full + (1 - beta2) * square
        u = g / np.sqrt(v)
        u = u / max(1.0, rms(u))
        theta = theta - LR * (u + decay(theta) * theta)
    return theta


def adam_mini(name, theta, grads, heads=HEADS):
    """Zhang et al., arXiv:2406.16793, Algorithm 1: Adam with one v for each block.

    A block (section 2.3) is a head of a query or key, an output neuron of a value, projection or
    MLP matrix, a token of an embedding, or a whole norm.
    """
    split = [n for part, n in heads.items() if part in name.split(".")]
    if split:
        blocks = theta.reshape(split[0], -1)
    elif theta.ndim >= 2:
        blocks = theta.reshape(-1, theta.shape[-1])
    else:
        blocks = theta.reshape(1, -1)
    m, v = np.zeros_like(blocks), np.zeros((len(blocks), 1))
    for t, g in enumerate(grads, 1):
        g = g.reshape(blocks.shape)
        m = 0.9 * m + 0.1 * g
        v = 0.95 * v + 0.05 * (g**2).mean(axis=1, keepdims=True)
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.95**t)
        blocks = blocks - LR * (m_hat / (np.sqrt(v_hat) + 1e-8) + decay(theta) * blocks)
    return blocks.reshape(theta.shape)


ORACLES = {
    "adamw": adamw,
    "adam": adam,
    "lion": lion,
    "adafactor": adafactor,
    "adam-mini": adam_mini,
}


def gradients(model, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield {
            name: torch.randn(param.shape, generator=generator) * 0.1
            for name, param in model.named_parameters()
        }


def assert_steps(entry, model, oracle, steps):
    """Take steps with an optimizer, and assert that its oracle ends with the same parameters."""
    start = {key: p.detach().double().numpy() for key, p in model.named_parameters()}
    history = list(gradients(model, steps))
    optimizer = build_optimizer(entry, model, LR, WEIGHT_DECAY)
    for grads in history:
        for key, param in model.named_parameters():
            param.grad = grads[key].clone()
        optimizer.step()
    for key, param in model.named_parameters():
        of_param = [grads[key].double().numpy() for grads in history]
        expected = oracle(key, start[key], of_param)
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-4, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", ORACLES)
def test_an_optimizer_takes_the_steps_of_its_paper(name):
    torch.manual_seed(0)
    assert_steps(spec(name), build_model(MODEL), ORACLES[name], STEPS)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("qwen3-nano", {"q_proj": 4, "k_proj": 2}),
        ("qwen3-moe-nano", {"q_proj": 4, "k_proj": 2}),
        # A block of kv_b_proj contains the keys and the values of a head.
        ("deepseek-nano", {"q_proj": 4, "kv_b_proj": 4}),
    ],
)
def test_adam_mini_has_the_blocks_of_each_family(name, heads):
    settings = REGISTRY.models[name].model_copy(update={"layers": 2, "vocab_size": 64})
    entry = optimizer_spec("adam-mini", ENTRIES["adam-mini"], settings)

    def oracle(key, theta, grads):
        return adam_mini(key, theta, grads, heads)

    assert_steps(entry, build_model(settings), oracle, steps=3)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_keeps_state_for_every_parameter(name):
    model = build_model(MODEL)
    optimizer = build_optimizer(spec(name), model, LR, WEIGHT_DECAY)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert len(optimizer.state) == len(list(model.parameters()))
    assert state_bytes(optimizer) > 0


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_decays_the_same_parameters(name):
    model = build_model(MODEL)
    optimizer = build_optimizer(spec(name), model, LR, WEIGHT_DECAY)
    grouped = {
        p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for param in model.parameters():
        assert grouped[param] == (WEIGHT_DECAY if param.ndim >= 2 else 0.0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (spec("adamw", momentum=0.9), r"optimizers.adamw.args has 'momentum', but .* accepts only"),
        (spec("adamw", lr=0.1), r"optimizers.adamw.args has 'lr', but that is a training setting"),
        (spec("adamw", betas=[2, 0.9]), r"optimizers.adamw.args: torch.optim.AdamW refuses them"),
        (spec("lion", betas=[2, 0.9]), r"optimizers.lion.args: lion_pytorch.Lion refuses them"),
        (
            OptimizerSpec(name="new", class_path="torch.optim.NoSuch", args={}),
            r"optimizers.new.class is 'torch.optim.NoSuch', but it must be importable",
        ),
        (
            OptimizerSpec(name="new", class_path="torch.optim.Rprop", args={}),
            r"training.weight_decay is 0.1, but torch.optim.Rprop of optimizers.new has no",
        ),
    ],
)
def test_what_an_optimizer_does_not_accept_is_an_error(entry, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(entry, build_model(MODEL), LR, WEIGHT_DECAY)
