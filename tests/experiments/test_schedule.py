"""The learning rate warms up linearly from zero, then follows the schedule of the settings."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from experiments.plan.profile import TrainingSettings
from experiments.settings import ConfigError, parse
from experiments.training.learning_rate import lr_factor
from experiments.training.train import train

SETTINGS = TrainingSettings(
    steps=100, warmup_steps=20, batch_size=1, context=1, lr=1.0, val_every=10, val_sequences=1
)


def test_it_rises_linearly_to_one_at_the_end_of_the_warm_up():
    factors = [lr_factor(step, SETTINGS) for step in range(21)]
    np.testing.assert_allclose(factors, np.arange(21) / 20)


def test_it_falls_as_torchs_cosine_does():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = CosineAnnealingLR(optimizer, T_max=80, eta_min=0.1)
    for step in range(20, 101):
        assert lr_factor(step, SETTINGS) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()


def test_it_ends_at_the_minimum_and_stays_there():
    assert lr_factor(100, SETTINGS) == pytest.approx(0.1)
    assert lr_factor(101, SETTINGS) == pytest.approx(0.1)


def test_without_a_warm_up_it_starts_near_the_top():
    settings = SETTINGS.model_copy(update={"warmup_steps": 0})
    assert lr_factor(1, settings) == pytest.approx(1.0, abs=1e-3)


def factors(**changes):
    """Return the factors of all steps, from 1, and of one step more."""
    settings = parse(TrainingSettings, SETTINGS.model_dump() | changes)
    return [lr_factor(step, settings) for step in range(1, settings.steps + 2)]


SHAPES = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + np.cos(np.pi * done)) / 2,
    "sqrt": lambda done: 1 - np.sqrt(done),
}


def wsd(steps, warmup, decay, end, shape):
    """Return the factors of warmup-stable-decay, written as in arXiv:2405.18392."""
    n = np.arange(1, steps + 2)
    remaining = SHAPES[shape](np.clip((n - (steps - decay)) / decay, 0, 1))
    return np.where(n < warmup, n / max(warmup, 1), end + (1 - end) * remaining)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("warmup", "decay"), [(20, 30), (0, 1), (20, 80), (0, 100)])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_wsd_is_constant_until_its_final_decay(shape, warmup, decay, end):
    ours = factors(
        schedule="wsd",
        warmup_steps=warmup,
        decay_steps=decay,
        decay_shape=shape,
        min_lr_ratio=end,
    )
    np.testing.assert_allclose(ours, wsd(100, warmup, decay, end, shape), atol=1e-12)


def test_wsd_decays_linearly_by_default():
    given = factors(schedule="wsd", decay_steps=30, decay_shape="linear")
    assert factors(schedule="wsd", decay_steps=30) == given


def test_wsd_that_decays_as_a_cosine_from_the_warm_up_is_the_default():
    assert factors(schedule="wsd", decay_steps=80, decay_shape="cosine") == factors()


def test_constant_stays_at_the_top():
    np.testing.assert_allclose(factors(schedule="constant"), np.minimum(np.arange(1, 102) / 20, 1))


def test_a_run_trains_with_the_learning_rates_of_its_schedule(tiny_plan, tiny_corpus, tmp_path):
    run = tiny_plan(schedule="wsd", decay_steps=5, decay_shape="sqrt")[0].spec
    train(run, tiny_corpus, tmp_path)
    logged = pd.read_parquet(tmp_path / "metrics.parquet")
    assert logged["step"].tolist() == [*range(1, 13)]
    np.testing.assert_allclose(logged["lr"], 1e-2 * wsd(12, 3, 5, 0.1, "sqrt")[:12])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "step"}, "schedule is 'step', but it should be 'cosine', 'wsd' or 'constant"),
        ({"schedule": "wsd"}, "decay_steps is missing, but the schedule wsd needs it"),
        ({"schedule": "wsd", "decay_steps": 0}, "decay_steps is 0, but it should be greater"),
        (
            {"schedule": "wsd", "decay_steps": 81},
            "decay_steps is 81, .* at most .*, 80",
        ),
        (
            {"schedule": "wsd", "decay_steps": 9, "decay_shape": "exp"},
            "decay_shape is 'exp', but it should be 'linear', 'cosine' or 'sqrt'",
        ),
        ({"decay_steps": 30}, "decay_steps is 30, but schedule is 'cosine': only wsd has"),
        ({"decay_shape": "linear"}, "decay_shape is 'linear', but schedule is 'cosine': only wsd"),
        (
            {"schedule": "constant", "decay_steps": 30},
            "decay_steps is 30, but schedule is 'constant': only wsd has decay_steps",
        ),
    ],
)
def test_settings_that_contradict_the_schedule_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse(TrainingSettings, SETTINGS.model_dump() | changes)
