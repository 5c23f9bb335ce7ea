"""Validation: which windows a process evaluates, and their mean losses over all processes."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.corpus.batches import TokenBatches
from experiments.plan.profile import TrainingSettings
from experiments.runs.metrics import Row
from experiments.training.parallel import Parallel


class Batch(NamedTuple):
    """Validation windows of one forward pass, and where their loss counts."""

    inputs: Tensor  # int64, shape (windows, context)
    targets: Tensor  # the same, one token ahead
    is_final: bool  # of the final validation; else of the curve
    block: int | None  # number of the block of consecutive windows; None for padding


class Validation:
    """The validation batches of one process, and their losses.

    Lightning iterates over it at each validation. It yields the windows of the curve, and after the
    last step also those of the final validation. Every process gets the same number of batches,
    because the processes compute together. Padding repeats the last batch, and is not counted.

    Args:
        batches: the corpus.
        settings: the training settings of the run.
        parallel: the processes, and how they share the work.
        rank: number of this process.
        is_last_step: returns whether the run has taken its last step.
    """

    def __init__(
        self,
        batches: TokenBatches,
        settings: TrainingSettings,
        parallel: Parallel,
        rank: int,
        is_last_step: Callable[[], bool],
    ) -> None:
        self._batches = batches
        self._is_last_step = is_last_step
        self._part = slice(rank // parallel.tensor_parallel, None, parallel.data_parallel)
        size = parallel.micro_batch_size(settings)
        curve = batches.curve_starts(settings.val_sequences)
        final = batches.final_starts(settings.final_val_sequences)
        # The blocks do not depend on the number of processes, so neither does the standard error.
        self._curve = _Windows(curve, len(curve), size)
        self._final = _Windows(final, settings.micro_batch_size or settings.batch_size, size)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._of(self._curve, is_final=False)
        if self._is_last_step():
            yield from self._of(self._final, is_final=True)

    def _of(self, windows: "_Windows", *, is_final: bool) -> Iterator[Batch]:
        parts, batches = self._part.step, windows.batches
        padding = [(batches[-1][0], None)] * (-len(batches) % parts)
        for starts, block in [*batches, *padding][self._part]:
            yield Batch(*self._batches.val_windows(starts), is_final, block)

    def add(self, batch: Batch, loss: Tensor) -> None:
        """Count the mean loss of a batch, a scalar; `take_losses` waits for it."""
        if batch.block is not None:
            windows = self._final if batch.is_final else self._curve
            windows.added.append((batch.block, len(batch.inputs), loss))

    def take_losses(self, mean: Callable[[Tensor], Tensor]) -> Row:
        """Return the losses of this validation, in columns of metrics, and forget them.

        Args:
            mean: returns the mean of a tensor over all processes.
        """
        row = {"val_loss": mean_and_error(mean(self._curve.take_sums()))[0]}
        if self._is_last_step():
            loss, error = mean_and_error(mean(self._final.take_sums()))
            row |= {"final_val_loss": loss, "final_val_error": error}
        return row


def mean_and_error(sums: Tensor) -> tuple[float, float]:
    """Return the mean loss over all windows, and its standard error.

    The windows of a block are neighbours in the text, so the blocks are the independent units. The
    error is sd / sqrt(blocks), where sd is the standard deviation of the blocks' means. If the last
    block is smaller, it is the error of a ratio, the sum of the losses over the number of windows
    (Cochran, Sampling Techniques, 1977, section 6.3).

    Args:
        sums: sum of the losses and number of windows of each block, float64, shape (2, blocks).

    Returns:
        Both in nats per token; the error is NaN if there is only one block.
    """
    losses, windows = sums
    total, blocks = windows.sum(), len(windows)
    mean = losses.sum() / total
    if blocks == 1:
        return mean.item(), math.nan
    error = (losses - mean * windows).std() * math.sqrt(blocks) / total
    return mean.item(), error.item()


class _Windows:
    """Validation windows in blocks, and the sums of their losses.

    Args:
        starts: positions of the windows.
        block_size: consecutive windows per block; the last block may have fewer.
        batch_size: windows per batch; no batch spans two blocks.
    """

    def __init__(self, starts: np.ndarray, block_size: int, batch_size: int) -> None:
        blocks = _split(starts, block_size)
        self.batches = [
            (batch, number)
            for number, block in enumerate(blocks)
            for batch in _split(block, batch_size)
        ]
        self.added: list[tuple[int, int, Tensor]] = []  # block, windows and mean loss of a batch
        self._blocks = len(blocks)

    def take_sums(self) -> Tensor:
        """Return sum of losses and number of windows by block, fp64, and forget them."""
        sums = torch.zeros(2, self._blocks, dtype=torch.float64)
        losses = torch.stack([loss for _, _, loss in self.added]).tolist() if self.added else []
        for (block, size, _), loss in zip(self.added, losses, strict=True):
            sums[0, block] += loss * size
            sums[1, block] += size
        self.added.clear()
        return sums


def _split(starts: np.ndarray, size: int) -> list[np.ndarray]:
    return [starts[i : i + size] for i in range(0, len(starts), size)]
