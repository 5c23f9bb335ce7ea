"""AdamW with 8 and 4 bits of state takes nearly AdamW's steps, with a part of its state.

`make test-field` runs these tests; they are skipped where a library is not installed.
torchao compiles its step, which takes up to a minute.
"""

import pytest
import torch
from torch import nn

from experiments.optimizers.state_bytes import state_bytes
from tests.field.stepping import (
    LR,
    adamw,
    assert_moved,
    gradients,
    in_float64,
    learning_rates,
    take_steps,
)


@pytest.mark.parametrize(
    ("name", "tolerance", "size"),
    [
        ("adamw-8bit-bnb", 0.05, 2),
        ("adamw-8bit-torchao", 0.05, 2),
        ("adamw-4bit", 0.2, 1),
    ],
)
def test_low_bit_adamw(name, tolerance, size):
    torch.manual_seed(0)
    model = nn.Linear(256, 256)
    start = in_float64(dict(model.named_parameters()))
    history = [in_float64(grads) for grads in gradients(model)]
    optimizer = take_steps(name, model)
    expected = {
        key: adamw(theta, [grads[key] for grads in history], learning_rates(LR))
        for key, theta in start.items()
    }
    assert_moved(model, start, expected, tolerance)
    count = sum(param.numel() for param in model.parameters())
    assert size < state_bytes(optimizer) / count < size + 0.2
