"""The speed of training on this machine: operations of a token, and seconds for them."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.files import atomic, read_object
from experiments.models.build import build_model, model_on_meta
from experiments.models.settings import ModelSettings
from experiments.plan.profile import TrainingSettings
from experiments.plan.spec import RunSpec
from experiments.studies.machine import accelerator_or_cpu, gflops, seconds

CALIBRATION_FILE = "calibration.json"  # of results/: seconds per token, by model and machine
_TIMED_STEPS, _WARM_STEPS = 5, 2
_LONGEST_STEP = 5e11  # operations of a step that a CPU is timed with
_FASTER = 100  # how many times as many a GPU is timed with
_SHARE_OF_PEAK = 0.4  # of the speed of matrix products, where no step is timed


def flops_per_token(model: ModelSettings, context: int) -> float:
    """Return the operations of a forward and a backward pass for each token.

    They are 6 for each parameter that a token uses, and 12·context·width for the attention of each
    layer (Kaplan et al., arXiv:2001.08361, section 2.1, times 3 for both passes). Of the routed
    experts a token uses some; an embedding that is not the output layer costs nothing.
    """
    used = 0.0
    share = getattr(model, "experts_per_token", 1) / getattr(model, "experts", 1)
    for name, tensor in model_on_meta(model).named_parameters():
        if "position" in name or ("embed" in name and not getattr(model, "tie_embeddings", True)):
            continue
        used += tensor.numel() * (share if ".experts." in name else 1.0)
    return 6 * used + 12 * context * model.width * model.layers


class Calibration:
    """Seconds per token of training steps, timed once for each model and machine.

    Args:
        path: JSON file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._device = accelerator_or_cpu()

    def seconds_per_token(self, spec: RunSpec) -> tuple[float, bool]:
        """Return the seconds per token of a run, and whether they were timed."""
        training = spec.training
        per_token = flops_per_token(spec.model, training.context)
        sequences = training.micro_batch_size or training.batch_size
        longest = _LONGEST_STEP * (_FASTER if self._device.type == "cuda" else 1)
        if per_token * sequences * training.context > longest:
            speed = self._kept(f"matrix products {self._machine}", lambda: gflops(self._device))
            return per_token / (_SHARE_OF_PEAK * 1e9 * speed), False
        key = (
            f"{spec.model.model_dump_json()} {sequences} × {training.context} {training.precision}"
        )
        kept = self._kept(f"{key} {self._machine}", lambda: self._timed(spec.model, training))
        return kept, True

    @property
    def _machine(self) -> str:
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "one core"
        return f"torch {torch.__version__} {name}"

    def _kept(self, key: str, measure: Callable[[], float]) -> float:
        kept = read_object(self._path) or {}
        if key not in kept:
            kept[key] = measure()
            with atomic(self._path) as path:
                path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return kept[key]

    def _timed(self, settings: ModelSettings, training: TrainingSettings) -> float:
        """Return the seconds per token of steps with AdamW, on one core or on the GPU."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        model = build_model(settings, device=self._device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        shape = (training.micro_batch_size or training.batch_size, training.context)
        tokens = torch.zeros(shape, dtype=torch.int64, device=self._device)
        autocast = torch.autocast(
            self._device.type, torch.bfloat16, enabled=training.precision != "32-true"
        )

        def step() -> None:
            with autocast:
                loss = model(tokens, tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds(step, self._device, _WARM_STEPS)
        taken = seconds(step, self._device, _TIMED_STEPS)
        torch.set_num_threads(threads)
        return taken / tokens.numel()
