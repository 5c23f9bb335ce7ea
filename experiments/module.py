"""The Lightning module: a model, its data, its optimizer, and the metrics of each step."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from experiments.data import TokenBatches
from experiments.grid import RunSpec
from experiments.machine import peak_memory_bytes
from experiments.metrics import MetricsLog
from experiments.models import build_model
from experiments.optimizers import build_optimizer, state_bytes
from experiments.schedule import lr_factor

_BATCH_NOISE = 0.1  # nats by which the first batch's loss may lie below that of other text


class LanguageModelRun(L.LightningModule):
    """A model, its data and its optimizer, trained for a fixed number of steps.

    The training loader only counts steps: each step looks its batch up by seed and step, so a run
    that is resumed sees exactly the data it would have seen.
    """

    def __init__(self, spec: RunSpec, batches: TokenBatches, folder: Path) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.spec = spec
        self.batches = batches
        self.metrics = MetricsLog(folder / "metrics.jsonl")
        torch.manual_seed(spec.seed)  # the same initial weights for every optimizer
        self.model = build_model(spec.model)
        self.optimizer = build_optimizer(
            spec.optimizer, self.model, spec.training.lr, spec.training.weight_decay
        )
        self.last_row: dict[str, float] = {}
        self._val_losses: list[tuple[float, int]] = []

    def configure_optimizers(self) -> dict[str, Any]:
        """Give Lightning the optimizer and its schedule."""
        schedule = LambdaLR(self.optimizer, lambda step: lr_factor(step + 1, self.spec.training))
        return {"optimizer": self.optimizer, "lr_scheduler": schedule}

    def train_dataloader(self) -> range:
        """Return the steps; `training_step` finds its own batch."""
        return range(self.spec.training.steps)

    def val_dataloader(self) -> DataLoader:
        """Return the fixed validation windows, already in batches."""
        settings = self.spec.training
        size = settings.micro_batch_size or settings.batch_size
        return DataLoader(self.batches.validation(settings.val_sequences, size), batch_size=None)

    def on_train_start(self) -> None:
        """Drop rows that were written after the checkpoint this run goes on from."""
        self.metrics.rewind(self.global_step)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take one optimizer step on the batch of this step."""
        settings = self.spec.training
        step = self.global_step + 1
        lr = self.optimizer.param_groups[0]["lr"]
        is_validated = step % settings.val_every == 0
        is_logged = is_validated or step % settings.log_every == 0
        before = [p.detach().clone() for p in self.model.parameters()] if is_logged else []
        started = _now()
        loss = self._accumulate_gradients()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip_norm)
        update_started = _now()
        self.optimizers().step()
        finished = _now()
        self.lr_schedulers().step()
        self.last_row = row = {
            "step": step,
            "tokens": step * settings.batch_size * settings.context,
            "train_loss": loss,
            "lr": lr,
            "grad_norm": grad_norm.item(),
            "update_rms": _rms_difference(self.model.parameters(), before),
            "step_seconds": finished - started,
            "optimizer_seconds": finished - update_started,
        }
        self.trainer.should_stop = not math.isfinite(loss)  # nothing finite comes after
        if self.trainer.should_stop or (is_logged and not is_validated):
            self.metrics.append(row)

    def _accumulate_gradients(self) -> float:
        """Leave the gradient of the whole batch in the parameters; return its mean loss."""
        settings = self.spec.training
        self.optimizer.zero_grad()
        inputs, targets = self.batches.train(self.spec.seed, self.global_step, settings.batch_size)
        size = settings.micro_batch_size or settings.batch_size
        parts = settings.batch_size // size
        total = 0.0
        for micro in zip(inputs.split(size), targets.split(size), strict=True):
            loss = self.model(*(tensor.to(self.device) for tensor in micro)) / parts
            self.manual_backward(loss)
            total += loss.item()
        return total

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch of validation windows."""
        self._val_losses.append((self.model(*batch).item(), len(batch[0])))

    def on_validation_epoch_end(self) -> None:
        """Complete this step's row with the mean over all validation windows."""
        windows = sum(size for _, size in self._val_losses)
        val_loss = sum(loss * size for loss, size in self._val_losses) / windows
        self._val_losses.clear()
        if not self.trainer.should_stop:
            self.metrics.append(self.last_row | {"val_loss": val_loss})

    def summary(self) -> dict[str, Any]:
        """Return the run in a few numbers.

        The status is `diverged` where a loss was not finite, or where the run ended with a higher
        loss than it began with: nothing was learnt that lasted.
        """
        frame = self.metrics.frame()
        first, last = frame.iloc[0], frame.iloc[-1]
        diverged = not last["val_loss"] <= first["train_loss"] + _BATCH_NOISE
        val_losses = frame["val_loss"].dropna()
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "status": "diverged" if diverged else "completed",
            "steps": int(last["step"]),
            "tokens": int(last["tokens"]),
            "final_val_loss": None if diverged else float(last["val_loss"]),
            "best_val_loss": float(val_losses.min()) if len(val_losses) else None,
            "parameters": parameters,
            "state_bytes": state_bytes(self.optimizer),
            "peak_memory_bytes": peak_memory_bytes(),
            "tokens_per_second": self.spec.training.batch_size
            * self.spec.training.context
            / float(frame["step_seconds"].median()),
            "optimizer_seconds": float(frame["optimizer_seconds"].median()),
        }


def _now() -> float:
    """Return the time in seconds, once an accelerator has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _rms_difference(params: Iterable[Tensor], before: list[Tensor]) -> float:
    """Return the root mean square of how far parameters moved; NaN where not measured."""
    if not before:
        return math.nan
    squares = [
        (new.detach().float() - old.float()).square().sum()
        for new, old in zip(params, before, strict=True)
    ]
    return math.sqrt(sum(squares).item() / sum(old.numel() for old in before))
