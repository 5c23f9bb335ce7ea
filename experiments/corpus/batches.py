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


class TokenBatches:
    """Batches of a corpus: random windows for training, fixed windows for validation.

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

    def validation(self, sequences: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Return the validation batches: evenly spaced windows, the same for every run.

        Args:
            sequences: number of windows; they overlap if the corpus has too few tokens.
            batch_size: windows per batch; the last batch may have fewer.

        Returns:
            Batches of inputs and targets, int64, shape (up to batch_size, context).
        """
        last = len(self.val_tokens) - self.context - 1
        starts = np.linspace(0, last, sequences).astype(np.int64)
        return [
            self._windows(self.val_tokens, starts[i : i + batch_size])
            for i in range(0, sequences, batch_size)
        ]

    def _windows(self, tokens: TokenStream, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        windows = torch.from_numpy(tokens.windows(starts, self.context + 1))
        return windows[:, :-1], windows[:, 1:]
