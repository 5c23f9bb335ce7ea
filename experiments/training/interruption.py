"""Saving a run that SLURM is about to stop."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import lightning.pytorch as L
import torch

from experiments.training.checkpoint import save_checkpoint

_SAVE, _REQUEUE = 1, 2


class SaveOnSignal(L.Callback):
    """Saves after the step at which a signal came, and requeues when it is USR2.

    SLURM sends USR2 some time before the limit, and SIGTERM when it preempts or cancels a job.
    After a SIGTERM alone training goes on until it is killed: what SLURM preempts it requeues
    itself. The processes of a run are told at different moments, so they agree on the step they
    save after.

    Args:
        path: the checkpoint.
        requeue: gives the job back to the queue and does not return; called in the first process.
    """

    def __init__(self, path: Path, requeue: Callable[[], None]) -> None:
        self._path = path
        self._requeue = requeue
        self._asked = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, from submitit and from Lightning, which would end the run."""
        self._handlers = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGUSR2)
        }

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Save, unless this step is still to be validated."""
        if trainer.global_step % pl_module.spec.training.val_every:
            self._save_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless the run is at its end."""
        if trainer.global_step < trainer.max_steps:
            self._save_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _save_if_asked(self, trainer: L.Trainer) -> None:
        asked = torch.tensor(self._asked, device=trainer.strategy.root_device)
        asked = int(trainer.strategy.reduce(asked, reduce_op="max"))
        if not asked:
            return
        self._asked = 0
        save_checkpoint(trainer, self._path)
        if asked == _REQUEUE and trainer.is_global_zero:
            self._requeue()

    def _note(self, number: int, _: FrameType | None) -> None:
        self._asked = max(self._asked, _REQUEUE if number == signal.SIGUSR2 else _SAVE)
