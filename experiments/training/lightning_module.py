"""The Lightning module: a model, its data, its optimizer, and the metrics of each step."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from experiments.corpus.batches import TokenBatches, to_device
from experiments.models.blocks import compile_blocks, recompute_activations
from experiments.models.build import model_on_meta
from experiments.models.determinism import deterministic
from experiments.models.initial import materialise
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.composite import parts_of
from experiments.optimizers.exact_loading import load_exactly
from experiments.optimizers.modes import switch_mode
from experiments.optimizers.state_bytes import state_bytes
from experiments.optimizers.user_code import describe
from experiments.plan.spec import RunSpec
from experiments.runs.metrics import MetricsLog
from experiments.runs.summary import Summary
from experiments.training.checkpoint import (
    by_name,
    by_number,
    check_shapes,
    fresh_state,
    restore_rng_states,
    rng_states,
)
from experiments.training.learning_rate import lr_factor
from experiments.training.measuring.divergence import Divergence
from experiments.training.measuring.step import ParameterCopy, PeakMemory, synchronized_time
from experiments.training.parallel import Parallel
from experiments.training.sharding import full_tensor, shard
from experiments.training.strategies import ShardedStrategy
from experiments.training.validation import Batch, Validation


class LanguageModelRun(L.LightningModule):
    """A model, its data and its optimizer, trained for a fixed number of steps.

    The training loader yields only step numbers. Each step looks up its batch by seed and step, so
    a resumed run sees exactly the same data as an uninterrupted one. Each process trains on its
    part of the batch, and the first process logs the metrics.
    """

    def __init__(
        self, spec: RunSpec, batches: TokenBatches, metrics: MetricsLog, parallel: Parallel
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.spec = spec
        self.batches = batches
        self.parallel = parallel
        self.metrics = metrics
        self._peak = PeakMemory()
        torch.manual_seed(spec.seed)  # for stochastic rounding
        self.model = model_on_meta(spec.model)
        if spec.training.activation_checkpointing:
            recompute_activations(self.model)
        if spec.training.compile:
            compile_blocks(self.model)
        self.last_row: dict[str, float] = {}
        self._divergence = Divergence()
        self._peak_bytes = 0
        self._rng: dict[str, Tensor] = {}
        self._optimizer_trains = True

    def configure_model(self) -> None:
        """Shard the model over the processes if the strategy is FSDP, and make its weights."""
        if self.parallel.processes > 1 and self.parallel.strategy == "fsdp":
            shard(self.model, self.device_mesh)
        materialise(self.model, self.spec.seed, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its learning-rate schedule, in Lightning's format."""
        settings = self.spec.training
        self.optimizer = build_optimizer(
            self.spec.optimizer, self.model, settings.lr, settings.weight_decay
        )
        for part in parts_of(self.optimizer):
            load_exactly(part)
        switch_mode(self.optimizer, self._optimizer_trains)
        self.optimizer.register_step_pre_hook(self._replace_closure)
        schedule = LambdaLR(self.optimizer, lambda step: lr_factor(step + 1, self.spec.training))
        return {"optimizer": self.optimizer, "lr_scheduler": schedule}

    def train_dataloader(self) -> range:
        """Return the step numbers; `training_step` looks up the batch."""
        return range(self.spec.training.steps)

    def val_dataloader(self) -> Validation:
        """Return this process's validation batches; after the last step they are more."""
        self._validation = Validation(
            self.batches, self.spec.training, self.parallel, self.global_rank, self._is_last_step
        )
        return self._validation

    def _is_last_step(self) -> bool:
        """Return whether all steps are taken, with finite losses."""
        return self.global_step == self.spec.training.steps and not self.trainer.should_stop

    def on_train_start(self) -> None:
        """Restore the random-number generators of a checkpoint; drop metrics of later steps."""
        switch_mode(self.optimizer, train=True)
        if self._rng:
            restore_rng_states(self._rng)
        if self.trainer.is_global_zero:
            self.metrics.rewind(self.global_step)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take one optimizer step on the batch of this step."""
        settings = self.spec.training
        step = self.global_step + 1
        is_validated = step % settings.val_every == 0
        is_logged = is_validated or step % settings.log_every == 0
        if not is_logged:  # nothing waits for the GPU
            self._step_optimizer(self._compute_gradients(step)[0])
            self.lr_schedulers().step()
            return
        before = ParameterCopy([*self.model.parameters()], self._peak)
        started = synchronized_time()
        loss, grad_norm = self._compute_gradients(step)
        update_started = synchronized_time()
        self._step_optimizer(loss)
        finished = synchronized_time()
        self.lr_schedulers().step()
        diverged_at = self._divergence.first_step(self.trainer.strategy)
        self.trainer.should_stop = diverged_at is not None  # later losses are not finite either
        step = diverged_at or step
        self.last_row = {
            "step": step,
            "tokens": step * settings.batch_size * settings.context,
            "train_loss": math.nan if diverged_at else self._mean(loss).item(),
            "lr": settings.lr * lr_factor(step, settings),
            "grad_norm": full_tensor(grad_norm).item(),
            "update_rms": before.rms_change(),
            "step_seconds": finished - started,
            "optimizer_seconds": finished - update_started,
        }
        if self.trainer.should_stop or not is_validated:
            self._log_row(self.last_row)

    def _step_optimizer(self, loss: Tensor) -> None:
        """Let the optimizer take its step.

        Raises:
            RuntimeError: the optimizer's class raised an error; the message names the line. If the
                loss is not finite, the error is ignored, because the run has diverged anyway.
        """
        try:
            self.optimizers().step()
        except Exception as error:
            if loss.isfinite():
                spec = self.spec.optimizer
                raise RuntimeError(
                    f"optimizers.{spec.name}: the step of {' and '.join(spec.classes)} raised"
                    f" {describe(error, *spec.classes)}"
                ) from error

    def _replace_closure(
        self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the closure that Lightning passes to the optimizer's step.

        In manual optimization it returns None, but some optimizers call it to get the loss:
        https://lightning.ai/docs/pytorch/stable/model/manual_optimization.html
        """
        if not self.spec.optimizer.closure:
            return args, {name: value for name, value in kwargs.items() if name != "closure"}
        return args, kwargs | {"closure": self._closure}

    @torch.enable_grad()
    def _closure(self) -> Tensor:
        """Compute the gradients of this step's batch again, and return its loss, a scalar."""
        return self._compute_gradients(self.global_step + 1)[0]

    def _compute_gradients(self, step: int) -> tuple[Tensor, Tensor]:
        """Compute the gradients of a step's batch, and clip them.

        Returns:
            The mean loss of this process's part of the batch, a scalar in fp64, and the norm of the
            gradients before they are clipped.
        """
        loss = self._accumulate_gradients()
        self._divergence.note(step, loss)
        limit = self.spec.training.grad_clip_norm
        return loss, nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def _log_row(self, row: dict[str, float]) -> None:
        if self.trainer.is_global_zero:
            self.metrics.append(row)

    @deterministic()
    def _accumulate_gradients(self) -> Tensor:
        """Compute the gradients of the whole batch; return the mean loss of this process's part."""
        settings = self.spec.training
        self.optimizer.zero_grad()
        part = self.parallel.part(settings.batch_size, self.global_rank)
        inputs, targets = (
            to_device(tensor[part], self.device)
            for tensor in self.batches.train(self.spec.seed, self.global_step, settings.batch_size)
        )
        size = self.parallel.micro_batch_size(settings)
        micro_batches = list(zip(inputs.split(size), targets.split(size), strict=True))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, micro in enumerate(micro_batches):
            with self._exchange_gradients(index == len(micro_batches) - 1):
                loss = self.model(*micro) / len(micro_batches)
                self.manual_backward(loss)
            total += loss.detach()
        return total

    def _exchange_gradients(self, is_last: bool) -> AbstractContextManager:
        """Return a context in which DDP reduces gradients only after the last micro-batch."""
        wrapper = self.trainer.strategy.model
        is_ddp = isinstance(wrapper, DistributedDataParallel)
        return wrapper.no_sync() if is_ddp and not is_last else nullcontext()

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes."""
        if self.parallel.processes == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device), reduce_op="mean").cpu()

    def on_validation_start(self) -> None:
        """Switch the optimizer to evaluation, which may change the model's weights."""
        switch_mode(self.optimizer, train=False)

    def on_validation_end(self) -> None:
        """Switch the optimizer back to training, after the checkpoint was saved."""
        switch_mode(self.optimizer, train=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the loss of one batch of validation windows."""
        self._validation.add(batch, self.model(batch.inputs, batch.targets))

    def on_validation_epoch_end(self) -> None:
        """Log this step's row with the mean losses over all validation windows."""
        losses = self._validation.take_losses(self._mean)
        if not self.trainer.should_stop:
            self._log_row(self.last_row | losses)

    def on_fit_end(self) -> None:
        """Record the largest peak memory over all processes, in bytes."""
        peak = torch.tensor(self._peak.update(), device=self.device)
        self._peak_bytes = int(self.trainer.strategy.reduce(peak, reduce_op="max"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Key the optimizer's state by parameter name, so that any number of processes can load it.

        The checkpoint also holds the metrics so far, so that a resumed run has them even if their
        own file was lost, and the states of the random-number generators, because an optimizer may
        round stochastically.
        """
        checkpoint["metrics"] = self.metrics.rows
        checkpoint["rng"] = rng_states()
        checkpoint["optimizer_trains"] = not self.trainer.validating
        if not isinstance(self.trainer.strategy, ShardedStrategy):  # it uses names itself
            (state,) = checkpoint["optimizer_states"]
            checkpoint["optimizer_states"] = [by_name(state, self, self.optimizer)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metrics; key the optimizer's state by parameter number, as torch does."""
        self.metrics.rows = checkpoint.get("metrics", self.metrics.rows)  # not in older files
        self._rng = checkpoint.get("rng", {})
        self._optimizer_trains = checkpoint.get("optimizer_trains", True)
        if "optimizer_states" in checkpoint:  # else ShardedStrategy has loaded it
            (state,) = checkpoint["optimizer_states"]
            if all(path.startswith("powerstep.") for path in self.spec.optimizer.classes):
                # Its state may be quantised in blocks.
                check_shapes(state, fresh_state(self.spec))
            checkpoint["optimizer_states"] = [by_number(state, self)]

    def measured(self) -> Summary:
        """Return the number of parameters, and the bytes of optimizer state and of peak memory."""
        return {
            "parameters": sum(param.numel() for param in self.model.parameters()),
            "state_bytes": state_bytes(self.optimizer),
            "peak_memory_bytes": self._peak_bytes,
        }
