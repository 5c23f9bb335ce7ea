"""AdamS, SignSGD, pbSGDM, Stacey and naive int8 AdamW, against their formulas in float64 NumPy.

Each reference below is written from the paper that its docstring names. The versions of the
authors of PowerStep (arXiv:2605.10335) have their own references.
"""

import numpy as np
import pytest
import torch

from powerstep import PowerStep
from powerstep.baselines import AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey
from tests.powerstep import oracle

LR, DECAY, STEPS = 1e-2, 0.1, 20


def power(x, beta):
    return np.sign(x) * np.abs(x) ** beta


def adams(theta, grads, beta1=0.9, beta2=0.95, eps=1e-8):
    """Zhang et al., arXiv:2505.16363: v uses the momentum of the previous step."""
    m = np.zeros_like(theta)
    for g in grads:
        v = beta2 * m**2 + (1 - beta2) * g**2
        m = beta1 * m + (1 - beta1) * g
        theta = (1 - LR * DECAY) * theta - LR * m / (np.sqrt(v) + eps)
    return theta


def adams_bias_corrected(theta, grads, beta1=0.9, beta2=0.95, eps=1e-8):
    """The version of PowerStep's authors: v uses the new momentum; Adam's bias corrections."""
    m = np.zeros_like(theta)
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = (beta2 * m**2 + (1 - beta2) * g**2) / (1 - beta2**t)
        theta = (1 - LR * DECAY) * theta - LR * m / (1 - beta1**t) / (np.sqrt(v) + eps)
    return theta


def signsgd(theta, grads, gamma=0.9):
    """Bernstein et al., arXiv:1802.04434, Algorithm 2, with decoupled decay."""
    m = np.zeros_like(theta)
    for g in grads:
        m = gamma * m + (1 - gamma) * g
        theta = theta - LR * (np.sign(m) + DECAY * theta)
    return theta


def pbsgdm(theta, grads, gamma=0.9, beta=0.1):
    """Zhou et al., IJCAI 2020: transform the gradient, then accumulate it."""
    m = np.zeros_like(theta)
    for g in grads:
        m = gamma * m + power(g, beta)
        theta = theta - LR * (m + DECAY * theta)
    return theta


def pbsgdm_decay_in_momentum(theta, grads, gamma=0.9, beta=0.1):
    """The version of PowerStep's authors: the weight decay is added to the momentum."""
    m = np.zeros_like(theta)
    for g in grads:
        m = gamma * m + power(g, beta) + DECAY * theta
        theta = theta - LR * m
    return theta


def stacey(theta, grads, beta1=0.9, beta2=0.99, alpha=0.1, tau=0.001, p=11, eps=1e-8):
    """Luo et al., arXiv:2506.06606: z is a position and starts at θ_0."""
    m, z = np.zeros_like(theta), theta
    for g in grads:
        c = beta1 * m + (1 - beta1) * g
        z = z - alpha * c
        y = theta - LR * c * (np.abs(c) + eps) ** ((2 - p) / (p - 1))
        theta = tau * z + (1 - tau) * y - LR * DECAY * theta
        m = beta2 * m + (1 - beta2) * g
    return theta


def stacey_dual_in_direction(
    theta, grads, beta1=0.9, beta2=0.99, alpha=0.1, tau=0.001, p=11, eps=1e-8
):
    """The version of PowerStep's authors: z starts at 0 and is part of the direction."""
    m, z = np.zeros_like(theta), np.zeros_like(theta)
    for g in grads:
        m = beta2 * m + (1 - beta2) * g
        c = beta1 * m + (1 - beta1) * g
        z = z - alpha * c
        y = c / (np.abs(c) ** ((p - 2) / (p - 1)) + eps)
        theta = (1 - LR * DECAY) * theta - LR * (tau * z + (1 - tau) * y)
    return theta


CASES = {
    "adams": (AdamS, {}, adams),
    "adams-bias-corrected": (AdamS, {"bias_corrected": True}, adams_bias_corrected),
    "signsgd": (SignSGD, {}, signsgd),
    "pbsgdm": (PbSGDM, {}, pbsgdm),
    "pbsgdm-decay": (PbSGDM, {"decay_in_momentum": True}, pbsgdm_decay_in_momentum),
    "stacey": (Stacey, {}, stacey),
    "stacey-dual": (Stacey, {"dual_in_direction": True}, stacey_dual_in_direction),
}


def problem(shape, seed=0):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal(shape)
    scale = 10.0 ** rng.uniform(-3, 1, shape)
    return theta, [rng.standard_normal(shape) * scale for _ in range(STEPS)]


def trained(optimizer_class, theta, grads, dtype=torch.float32, **arguments):
    param = torch.nn.Parameter(torch.from_numpy(np.array(theta)).to(dtype))
    optimizer = optimizer_class([param], lr=LR, weight_decay=DECAY, **arguments)
    for grad in grads:
        param.grad = torch.from_numpy(np.array(grad)).to(dtype)
        optimizer.step()
    return param.detach(), optimizer.state[param]


@pytest.mark.parametrize("shape", [(7, 33), (256,), ()])
@pytest.mark.parametrize("name", CASES)
def test_it_takes_the_steps_of_its_paper(name, shape):
    optimizer_class, arguments, expected = CASES[name]
    theta, grads = problem(shape)
    actual, _ = trained(optimizer_class, theta, grads, **arguments)
    np.testing.assert_allclose(actual, expected(theta, grads), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("published", "other"),
    [("adams", "adams-bias-corrected"), ("pbsgdm", "pbsgdm-decay"), ("stacey", "stacey-dual")],
)
def test_the_two_readings_differ(published, other):
    theta, grads = problem((64,))
    results = [
        trained(CASES[name][0], theta, grads, **CASES[name][1])[0] for name in (published, other)
    ]
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_signsgd_is_powerstep_with_beta_0():
    theta, grads = problem((40,))
    assert torch.equal(
        trained(SignSGD, theta, grads)[0], trained(PowerStep, theta, grads, beta=0.0)[0]
    )


def test_pbsgdm_with_beta_1_is_torch_sgd():
    theta, grads = problem((40,))
    param = torch.nn.Parameter(torch.from_numpy(theta).float())
    sgd = torch.optim.SGD([param], lr=LR, momentum=0.9)
    for grad in grads:
        param.grad = torch.from_numpy(grad).float()
        sgd.step()
    ours = torch.nn.Parameter(torch.from_numpy(theta).float())
    optimizer = PbSGDM([ours], lr=LR, beta=1.0)
    for grad in grads:
        ours.grad = torch.from_numpy(grad).float()
        optimizer.step()
    torch.testing.assert_close(ours, param)


def test_naive_int8_adamw_quantises_both_moments_after_each_step():
    theta, grads = problem((3, 100))
    param = torch.nn.Parameter(torch.from_numpy(theta).float())
    optimizer = NaiveAdamWInt8([param], lr=LR, weight_decay=DECAY)
    m = v = np.zeros(theta.shape)
    for t, g in enumerate(grads, 1):
        before = param.detach().double().numpy()
        param.grad = torch.from_numpy(g).float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        expected = (1 - LR * DECAY) * before - LR * update
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-4, atol=1e-5)
        state = optimizer.state[param]
        for name, moment in (("exp_avg", m), ("exp_avg_sq", v)):
            codes, scales = oracle.quantize(moment)
            assert np.abs(state[f"{name}_codes"].numpy() - codes).max() <= 1
            np.testing.assert_allclose(state[f"{name}_scales"], scales, rtol=1e-5)
        m, v = (
            oracle.dequantize(state[f"{name}_codes"].numpy(), state[f"{name}_scales"].numpy())
            for name in ("exp_avg", "exp_avg_sq")
        )


def test_naive_int8_adamw_equals_torch_adamw_in_its_first_step():
    theta, grads = problem((3, 100))
    ours, _ = trained(NaiveAdamWInt8, theta, grads[:1])
    theirs, _ = trained(torch.optim.AdamW, theta, grads[:1], betas=(0.9, 0.95))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("optimizer_class", "buffers"),
    [(AdamS, 1), (SignSGD, 1), (PbSGDM, 1), (Stacey, 2), (NaiveAdamWInt8, 2)],
)
def test_it_keeps_as_many_buffers_as_its_paper(optimizer_class, buffers):
    theta, grads = problem((4, 128))
    _, state = trained(optimizer_class, theta, grads[:1])
    per_element = sum(v.numel() * v.element_size() for v in state.values() if v.ndim) / 512
    assert per_element == buffers * (1 + 4 / 128 if optimizer_class is NaiveAdamWInt8 else 4)


@pytest.mark.parametrize("name", CASES)
def test_the_arithmetic_is_fp32_whatever_the_parameters(name):
    optimizer_class, arguments, expected = CASES[name]
    theta, grads = problem((64,))
    theta = torch.from_numpy(theta).bfloat16().double().numpy()
    grads = [torch.from_numpy(g).bfloat16().double().numpy() for g in grads]
    (once, state) = trained(optimizer_class, theta, grads[:1], torch.bfloat16, **arguments)
    # One step, rounded to bf16 once.
    rounded = torch.from_numpy(expected(theta, grads[:1])).bfloat16()
    torch.testing.assert_close(once, rounded, rtol=2**-7, atol=0)
    assert (once == rounded).float().mean() > 0.95
    assert all(value.dtype == torch.float32 for value in state.values())


@pytest.mark.parametrize(
    ("optimizer_class", "argument", "value"),
    [
        (AdamS, "betas", (0.9, 1.0)),
        (AdamS, "eps", -1.0),
        (AdamS, "bias_corrected", "yes"),
        (PbSGDM, "gamma", 1.1),
        (PbSGDM, "beta", -0.1),
        (SignSGD, "gamma", -0.1),
        (Stacey, "p", 1.5),
        (Stacey, "tau", 2.0),
        (NaiveAdamWInt8, "block_size", 0),
        (NaiveAdamWInt8, "betas", (0.9,)),
    ],
)
def test_values_out_of_range_are_refused_by_name(optimizer_class, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} is .*, but it must be"):
        optimizer_class([torch.nn.Parameter(torch.zeros(1))], lr=0.1, **{argument: value})
