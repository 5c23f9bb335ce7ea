"""`functional.adamw_`, against torch.optim.AdamW and the formula in float64 NumPy."""

import numpy as np
import pytest
import torch

from powerstep.functional import adamw_

STEPS = 20
ARGUMENTS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def adamw(theta, grads, lr, betas, eps, weight_decay):
    """Return θ and both moments (Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2)."""
    beta1, beta2 = betas
    m = v = np.zeros_like(theta)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        update = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        theta = theta - lr * (update + weight_decay * theta)
    return theta, m, v


def problem(shape):
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-3, 1, shape)
    return rng.standard_normal(shape), [rng.standard_normal(shape) * scale for _ in range(STEPS)]


def trained(theta, grads, dtype=torch.float32, step_type=int, **changed):
    """Take a step on each gradient; return θ and both moments."""
    param = torch.from_numpy(np.array(theta)).to(dtype)
    moments = [torch.zeros(param.shape) for _ in range(2)]
    for t, grad in enumerate(grads, 1):
        grad = torch.from_numpy(np.array(grad)).float()
        adamw_(param, grad, *moments, step=step_type(t), **(ARGUMENTS | changed))
    return param, *moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 33), (256,), ()])
def test_it_matches_the_formula(shape, dtype):
    theta, grads = problem(shape)
    actual, expected = trained(theta, grads, dtype), adamw(theta, grads, **ARGUMENTS)
    assert actual[0].dtype == dtype
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_takes_the_steps_of_torchs_adamw(weight_decay):
    theta, grads = problem((7, 33))
    param = torch.nn.Parameter(torch.from_numpy(theta).float())
    optimizer = torch.optim.AdamW([param], **(ARGUMENTS | {"weight_decay": weight_decay}))
    for grad in grads:
        param.grad = torch.from_numpy(grad).float()
        optimizer.step()
    state = optimizer.state[param]
    theirs = (param.detach(), state["exp_avg"], state["exp_avg_sq"])
    torch.testing.assert_close(trained(theta, grads, weight_decay=weight_decay), theirs)


def test_lr_and_step_may_be_tensors():
    theta, grads = problem((7, 33))
    as_tensors = trained(
        theta,
        grads,
        lr=torch.tensor(ARGUMENTS["lr"], dtype=torch.float64),
        step_type=lambda t: torch.tensor(t, dtype=torch.float64),
    )
    torch.testing.assert_close(as_tensors, trained(theta, grads))


def test_the_gradient_is_left_unmodified():
    grad = torch.arange(1.0, 5.0)
    adamw_(torch.ones(4), grad, torch.zeros(4), torch.zeros(4), step=1, **ARGUMENTS)
    assert torch.equal(grad, torch.arange(1.0, 5.0))
