"""Training and validation batches.

A training batch is a pure function of seed and step, so every optimizer sees the same data.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.corpus.facts import CorpusFacts
from experiments.corpus.tokens import TokenStream, read_tokens
from experiments.settings import ConfigError

_MANY_EPOCHS, _MOST_EPOCHS = 4, 10


def check_size(facts: CorpusFacts, batch_size: int, context: int) -> None:
    """Check that a corpus has more tokens than one batch and than one validation window.

    Raises:
        ConfigError: the corpus has too few tokens for training or for validation.
    """
    if batch_size * context >= facts.train_tokens:
        raise ConfigError(
            ("training", "batch_size"),
            f"× training.context is {batch_size} × {context} ="
            f" {batch_size * context} tokens, but it must be below the {facts.train_tokens}"
            f" training tokens of dataset {facts.name!r}",
        )
    if context >= facts.val_tokens:
        raise ConfigError(
            ("training", "context"),
            f"is {context}, but it must be below the {facts.val_tokens}"
            f" validation tokens of dataset {facts.name!r}",
        )


def check_epochs(facts: CorpusFacts, tokens: int) -> str:
    """Check how often a run of so many tokens sees the training text.

    Repeated text is worth less than new text, from about four epochs on (arXiv:2305.16264).

    Returns:
        A warning for more than four epochs, else "".

    Raises:
        ConfigError: it is more than ten epochs.
    """
    epochs = tokens / facts.train_tokens
    seen = (
        f"{tokens} tokens are trained on, {epochs:.1f} times the {facts.train_tokens} training"
        f" tokens of dataset {facts.name!r}"
    )
    if epochs > _MOST_EPOCHS:
        raise ConfigError(
            ("training", "steps"),
            f"× batch_size × context: {seen}, but it must be at most {_MOST_EPOCHS} times",
        )
    return f"warning: {seen}" if epochs > _MANY_EPOCHS else ""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU copies it while the CPU goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class TokenBatches:
    """Windows of a corpus: random ones for training, fixed ones for validation.

    Args:
        folder: the corpus, as `experiments.corpus.build` wrote it.
        context: tokens per sequence.

    Raises:
        FileError: the corpus is missing or damaged.
    """

    def __init__(self, folder: Path, context: int) -> None:
        self.context = context
        self.train_tokens, self.val_tokens = read_tokens(folder)

    def train(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the training batch of a step: windows at random positions.

        Args:
            seed: seed of the run.
            step: optimizer step, counted from 0.
            batch_size: number of windows.

        Returns:
            Inputs and targets, int64, shape (batch_size, context); targets are one token ahead.
        """
        last = len(self.train_tokens) - self.context
        starts = np.random.default_rng([seed, step]).integers(0, last, size=batch_size)
        return self._windows(self.train_tokens, starts)

    def curve_starts(self, sequences: int) -> np.ndarray:
        """Return the positions of the windows of the validation curve, the same for every run.

        Args:
            sequences: number of windows; they overlap if the corpus has too few tokens.

        Returns:
            Positions in the validation tokens, evenly spaced, int64, shape (sequences,).
        """
        last = len(self.val_tokens) - self.context - 1
        return np.linspace(0, last, sequences).astype(np.int64)

    def final_starts(self, sequences: int | None) -> np.ndarray:
        """Return the positions of the windows of the final validation, the same for every run.

        The windows follow each other without overlap. Each predicts the first token of the next, so
        that together they predict every validation token but the first and a rest that is shorter
        than a window.

        Args:
            sequences: number of windows, evenly spaced over the stream; None or more than there
                are for all.

        Returns:
            Positions in the validation tokens, int64, shape (windows,).
        """
        windows = (len(self.val_tokens) - 1) // self.context
        chosen = np.arange(windows)
        if sequences is not None and sequences < windows:
            chosen = np.linspace(0, windows - 1, sequences).astype(np.int64)
        return chosen * self.context

    def val_windows(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return validation windows.

        Args:
            starts: positions in the validation tokens, as `curve_starts` returns them.

        Returns:
            Inputs and targets, int64, shape (len(starts), context); targets are one token ahead.
        """
        return self._windows(self.val_tokens, starts)

    def _windows(self, tokens: TokenStream, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        windows = torch.from_numpy(tokens.windows(starts, self.context + 1))
        return windows[:, :-1], windows[:, 1:]
