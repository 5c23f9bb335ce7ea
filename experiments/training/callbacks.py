"""What happens beside the training steps: the checkpoint and the progress bar."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import lightning.pytorch as L
import torch
from tqdm import tqdm

from experiments.training.checkpoint import save_checkpoint


class SaveLast(L.Callback):
    """Writes the checkpoint a run is resumed from, after each validation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        save_checkpoint(trainer, self._path)


class ProgressLine(L.Callback):
    """A bar with the loss, tokens per second and the time left."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar where the run stands."""
        self._bar = tqdm(
            total=trainer.max_steps, initial=trainer.global_step, unit="step", mininterval=1
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Move it on by a step."""
        row, settings = pl_module.last_row, pl_module.spec.training
        speed = settings.batch_size * settings.context / row["step_seconds"]
        self._bar.set_postfix_str(
            f"loss {row['train_loss']:.3f}, {speed:,.0f} tokens/s", refresh=False
        )
        self._bar.update()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the full bar standing."""
        self._bar.close()


class TensorBoard(L.Callback):
    """Writes every logged number for TensorBoard too.

    Args:
        folder: of its event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open it where the run stands; what was written of later steps is not shown."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self._folder, purge_step=trainer.global_step + 1)
        self._written = len(pl_module.metrics.rows)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Write the rows that are new."""
        rows = pl_module.metrics.rows
        for row in rows[self._written :]:
            for name, value in row.items():
                self._writer.add_scalar(name, value, row["step"])
        self._written = len(rows)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the last validation added."""
        self.on_train_batch_end(trainer, pl_module)
        self._writer.close()


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
