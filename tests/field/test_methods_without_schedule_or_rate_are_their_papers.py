"""Schedule-free AdamW and Prodigy take the steps of their papers, as computed in NumPy.

`make test-field` runs these tests; they are skipped where a library is not installed.
"""

import numpy as np
import torch

from experiments.models.build import build_model
from experiments.optimizers.modes import switch_mode
from tests.field.stepping import (
    LR,
    MODEL,
    assert_moved,
    decay,
    gradients,
    in_float64,
    learning_rates,
    take_steps,
)


def schedule_free(theta, grads, lrs):
    """Return y and x of Defazio et al., arXiv:2405.15682, Algorithm 1.

    As in the authors' library, the bias of v is corrected in v, not in the learning rate.
    """
    x = z = theta
    v, weights = np.zeros_like(theta), 0.0
    for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        y = 0.1 * z + 0.9 * x
        v = 0.95 * v + 0.05 * g**2
        z = z - lr * (g / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + decay(theta) * y)
        weights += lr**2
        x = x + lr**2 / weights * (z - x)
    return 0.1 * z + 0.9 * x, x


def test_schedule_free_adamw_trains_at_y_and_evaluates_at_x():
    torch.manual_seed(0)
    model = build_model(MODEL)
    start = in_float64(dict(model.named_parameters()))
    history = [in_float64(grads) for grads in gradients(model)]
    expected = {
        key: schedule_free(theta, [grads[key] for grads in history], learning_rates(LR))
        for key, theta in start.items()
    }
    optimizer = take_steps("adamw-schedule-free", model)
    assert_moved(model, start, {key: y for key, (y, _) in expected.items()}, tolerance=1e-4)
    switch_mode(optimizer, train=False)
    assert_moved(model, start, {key: x for key, (_, x) in expected.items()}, tolerance=1e-4)


def prodigy(start, history, lrs, d0=1e-6):
    """Return parameters and step size of Mishchenko & Defazio, arXiv:2306.06101, Algorithm 4.

    The step size grows to <gradients, way> / |gradients|, sums over all steps and parameters. The
    safeguard of the authors' library leaves the learning rate out of the denominator.
    """
    beta3, d, above = np.sqrt(0.999), d0, 0.0
    params = dict(start)
    m, v, s = ({key: np.zeros_like(x) for key, x in start.items()} for _ in range(3))
    for grads, lr in zip(history, lrs, strict=True):
        above = beta3 * above + d**2 * lr * sum(
            np.sum(g * (start[key] - params[key])) for key, g in grads.items()
        )
        old = d
        for key, g in grads.items():
            m[key] = 0.9 * m[key] + 0.1 * d * g
            v[key] = 0.999 * v[key] + 0.001 * (d * g) ** 2
            s[key] = beta3 * s[key] + d**2 * g
        d = max(d, above / sum(np.abs(x).sum() for x in s.values()))
        for key, x in params.items():
            update = m[key] / (np.sqrt(v[key]) + d * 1e-8) + decay(x) * x
            params[key] = x - lr * old * update
    return params, d


def test_prodigy_finds_its_step_size():
    torch.manual_seed(0)
    model = build_model(MODEL)
    start = in_float64(dict(model.named_parameters()))
    history = [in_float64(grads) for grads in gradients(model)]
    expected, d = prodigy(start, history, learning_rates(1.0))
    optimizer = take_steps("prodigy", model, lr=1.0)
    assert d > 1.5e-6  # it has grown
    np.testing.assert_allclose(optimizer.param_groups[0]["d"], d, rtol=1e-2)
    assert_moved(model, start, expected, tolerance=1e-2)
