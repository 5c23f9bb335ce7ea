"""The learning rate warms up linearly from zero, then decays to a tenth as half a cosine."""

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from experiments.plan.profile import TrainingSettings
from experiments.training.learning_rate import lr_factor

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
