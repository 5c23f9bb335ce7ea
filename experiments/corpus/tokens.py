"""Read the tokens of a corpus from memory-mapped shards, as if they were one array."""

from pathlib import Path

import numpy as np

from experiments.corpus.facts import CorpusFacts, read_facts
from experiments.files import FileError, file_sha256


class TokenStream:
    """A contiguous range of a corpus's tokens.

    Args:
        shards: all shards of the corpus, in order; one-dimensional arrays of token ids.
        start: position of the first token in the corpus.
        stop: end position (exclusive).
    """

    def __init__(self, shards: list[np.ndarray], start: int, stop: int) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def first(self, length: int) -> np.ndarray:
        """Return the first tokens of this range, int64, shape (length,).

        Args:
            length: number of tokens, at most len(self).
        """
        return self._window(self.start, length)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return windows of consecutive tokens, int64, shape (len(starts), length).

        Args:
            starts: first positions in this range, from 0 to len(self) - length.
            length: tokens per window. A window may span several shards.

        Raises:
            IndexError: a window ends behind the last shard.
        """
        return np.stack([self._window(self.start + int(start), length) for start in starts])

    def _window(self, position: int, length: int) -> np.ndarray:
        window = np.empty(length, dtype=np.int64)
        filled = 0
        first = int(np.searchsorted(self.ends, position, side="right"))
        for shard, end in zip(self.shards[first:], self.ends[first:], strict=True):
            offset = position + filled - (end - len(shard))
            piece = shard[offset : offset + length - filled]
            window[filled : filled + len(piece)] = piece
            filled += len(piece)
            if filled == length:
                return window
        raise IndexError(f"a window of {length} tokens at {position} leaves the corpus")


def read_tokens(folder: Path) -> tuple[TokenStream, TokenStream]:
    """Return the training tokens and the validation tokens of a corpus.

    Raises:
        FileError: meta.json is missing or damaged, or a shard is missing or has a wrong size.
    """
    facts = read_facts(folder)
    shards = []
    for shard in facts.shards:
        path = folder / shard.file
        expected = shard.tokens * np.dtype(facts.dtype).itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise FileError(_damaged(folder, path, f"must be a file of {expected} bytes"))
        if shard.tokens:  # an empty file cannot be memory-mapped
            shards.append(np.memmap(path, dtype=facts.dtype, mode="r"))
    total = facts.train_tokens + facts.val_tokens
    train = TokenStream(shards, 0, facts.train_tokens)
    return train, TokenStream(shards, facts.train_tokens, total)


def verify(folder: Path) -> CorpusFacts:
    """Check every shard of a corpus against its sha256, and return the corpus's metadata.

    Raises:
        FileError: meta.json is missing or damaged, or a shard is missing or has changed.
    """
    facts = read_facts(folder)
    read_tokens(folder)
    for shard in facts.shards:
        path = folder / shard.file
        if file_sha256(path) != shard.sha256:
            raise FileError(_damaged(folder, path, f"must have the sha256 {shard.sha256}"))
    return facts


def _damaged(folder: Path, path: Path, expected: str) -> str:
    return f"{path} is damaged: it {expected}; delete {folder / 'meta.json'}, and it is made again"
