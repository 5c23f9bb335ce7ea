"""The measured peak memory of training a whole model with each of several optimizers.

Each optimizer trains in a process of its own, which this module runs as
`python -m experiments.studies.peak_memory <model> <optimizer>`. It prints its measurements as JSON.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.files import atomic
from experiments.memory import RETURN_FREED_MEMORY
from experiments.models.build import build_model, model_on_meta
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.settings import optimizer_spec
from experiments.optimizers.state_bytes import state_bytes
from experiments.plan.reading import load_profile
from experiments.studies.machine import accelerator_or_cpu, available_bytes, peak_bytes, used_bytes

MODEL = "gpt2-small"  # GPT-2 124M
OPTIMIZERS = ("adamw", "powerstep", "powerstep-int8")  # entries of optimizers.yaml
BATCH_SIZE = 1
CONTEXT = 128  # tokens; so short that weights, gradients and state are most of the memory
STEPS = 3  # the second step is the first one whose gradients meet the state

_BYTES_PER_PARAMETER = 40  # 22 were measured with AdamW; the rest is for torch and other programs

_MEASURED = (
    "peak_bytes",
    "weights_and_gradients_bytes",
    "state_bytes",
    "first_step_extra_bytes",
)


def write_peak_memory(path: Path) -> None:
    """Train MODEL for STEPS steps with each of OPTIMIZERS, and write a row for each.

    Columns: optimizer, label, model, parameters, device (cpu or cuda), batch_size, context (in
    tokens), and in bytes peak_bytes, weights_and_gradients_bytes, state_bytes and
    first_step_extra_bytes, which is the memory that the first step leaves in use besides the state.
    On a CPU the peak is that of the whole process, on a GPU that of the tensors. What could not be
    measured is NaN.
    """
    with atomic(path) as file:
        pd.DataFrame(_rows(MODEL)).to_csv(file, index=False)


def _rows(model: str) -> Iterator[dict[str, Any]]:
    profile = load_profile("paper")
    device = accelerator_or_cpu()
    whole = model_on_meta(profile.models[model])
    count = sum(param.numel() for param in whole.parameters())
    needed, available = count * _BYTES_PER_PARAMETER, available_bytes(device)
    if available < needed:
        print(f"not measured: {available / 1e9:.1f} GB are free, and {needed / 1e9:.1f} are needed")
    for name in OPTIMIZERS:
        unknown = dict.fromkeys(_MEASURED, math.nan)
        yield {
            "optimizer": name,
            "label": profile.optimizers[name].label,
            "model": model,
            "parameters": count,
            "device": device.type,
            "batch_size": BATCH_SIZE,
            "context": CONTEXT,
            **(unknown if available < needed else unknown | _in_own_process(model, name)),
        }


def _in_own_process(model: str, optimizer: str) -> dict[str, int]:
    """Return the measurements of a process that trains with an optimizer; none if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.studies.peak_memory", model, optimizer],
        env=os.environ | RETURN_FREED_MEMORY,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        print(f"not measured: {optimizer} ended with exit code {done.returncode}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def train(model: str, optimizer: str) -> dict[str, int]:
    """Train a model for STEPS steps on random tokens, and return _MEASURED of this process.

    Args:
        model: name of a model in models.yaml.
        optimizer: name of an entry of optimizers.yaml.
    """
    profile, device = load_profile("paper"), accelerator_or_cpu()
    settings = profile.models[model]
    torch.manual_seed(0)
    network = build_model(settings, device=device)
    tokens = torch.randint(settings.vocab_size, (BATCH_SIZE, CONTEXT + 1), device=device)
    entry = optimizer_spec(optimizer, profile.optimizers[optimizer], settings)
    stepper = build_optimizer(entry, network, lr=6e-4, weight_decay=0.1)
    kept = []
    for _ in range(STEPS):
        stepper.zero_grad()
        network(tokens[:, :-1], tokens[:, 1:]).backward()
        before = used_bytes(device)
        stepper.step()
        kept.append(used_bytes(device) - before)
    held = [tensor for param in network.parameters() for tensor in (param, param.grad)]
    state = state_bytes(stepper)
    numbers = peak_bytes(device), sum(tensor.nbytes for tensor in held), state, kept[0] - state
    return dict(zip(_MEASURED, numbers, strict=True))


if __name__ == "__main__":
    print(json.dumps(train(*sys.argv[1:])))
