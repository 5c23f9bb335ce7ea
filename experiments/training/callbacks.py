"""Lightning callbacks: checkpoints, the progress bar, TensorBoard, and the signals of SLURM."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import lightning.pytorch as L
import torch
from tqdm import tqdm

from experiments.training.checkpoint import save_checkpoint


class SaveLast(L.Callback):
    """Saves the checkpoint from which a run is resumed, after each validation."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the checkpoint."""
        save_checkpoint(trainer, self._path)


class ProgressLine(L.Callback):
    """A progress bar with the loss, the tokens per second and the remaining time."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the current step."""
        self._bar = tqdm(
            total=trainer.max_steps, initial=trainer.global_step, unit="step", mininterval=1
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Advance the bar by one step, with the numbers of the last logged one."""
        if row := pl_module.last_row:
            settings = pl_module.spec.training
            speed = settings.batch_size * settings.context / row["step_seconds"]
            self._bar.set_postfix_str(
                f"loss {row['train_loss']:.3f}, {speed:,.0f} tokens/s", refresh=False
            )
        self._bar.update()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar; it stays visible."""
        self._bar.close()


class TensorBoard(L.Callback):
    """Writes every logged metric to TensorBoard as well.

    Args:
        folder: the folder for the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the writer at the current step; TensorBoard hides older events of later steps.

        https://docs.pytorch.org/docs/stable/tensorboard.html
        """
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self._folder, purge_step=trainer.global_step + 1)
        self._written = len(pl_module.metrics.rows)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Write the rows that were logged since the last call."""
        rows = pl_module.metrics.rows
        for row in rows[self._written :]:
            for name, value in row.items():
                self._writer.add_scalar(name, value, row["step"])
        self._written = len(rows)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row of the last validation, and close the writer."""
        self.on_train_batch_end(trainer, pl_module)
        self._writer.close()


_SAVE, _REQUEUE = 1, 2  # requests made by signals; the higher one has priority


class SaveOnSignal(L.Callback):
    """Saves a checkpoint after the step in which a signal arrives; SIGUSR2 also requeues the job.

    SLURM sends SIGUSR2 before the time limit, and SIGTERM when it preempts or cancels a job. After
    SIGTERM alone training continues until the process is killed, because SLURM itself requeues a
    preempted job. A signal reaches the processes of a run at different moments, so they agree on
    the step after which they save, a logged one.

    Args:
        path: the checkpoint.
        requeue: requeues the job and does not return; called in the first process only.
    """

    def __init__(self, path: Path, requeue: Callable[[], None]) -> None:
        self._path = path
        self._requeue = requeue
        self._request = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the signal handlers of submitit and Lightning, which would end the run."""
        self._handlers = {
            number: signal.signal(number, self._record_signal)
            for number in (signal.SIGTERM, signal.SIGUSR2)
        }

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Save if a signal arrived; if a validation follows, only after it.

        Several processes ask each other at logged steps only, because that waits for the GPU.
        """
        training, step = pl_module.spec.training, trainer.global_step
        is_asked = trainer.world_size == 1 or step % training.log_every == 0
        if is_asked and step % training.val_every:
            self._save_if_requested(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if a signal arrived, unless this was the last step."""
        if trainer.global_step < trainer.max_steps:
            self._save_if_requested(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _save_if_requested(self, trainer: L.Trainer) -> None:
        request = self._request
        if trainer.world_size > 1:
            ours = torch.tensor(request, device=trainer.strategy.root_device)
            request = int(trainer.strategy.reduce(ours, reduce_op="max"))
        if not request:
            return
        self._request = 0
        save_checkpoint(trainer, self._path)
        if request == _REQUEUE and trainer.is_global_zero:
            self._requeue()

    def _record_signal(self, number: int, _: FrameType | None) -> None:
        self._request = max(self._request, _REQUEUE if number == signal.SIGUSR2 else _SAVE)
