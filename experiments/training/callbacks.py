"""What happens beside the training steps: the checkpoint and the progress bar."""

from pathlib import Path

import lightning.pytorch as L
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
