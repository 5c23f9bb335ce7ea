"""The facts of a corpus that was built, as its meta.json holds them."""

from dataclasses import dataclass
from pathlib import Path

from experiments.files import FileError, read_object


@dataclass(frozen=True)
class Shard:
    """A part of a corpus in a file of its own; stands beside it as JSON."""

    file: str  # below the folder of the corpus
    documents: int
    tokens: int
    text_sha256: str
    tokenizer_sha256: str
    sha256: str  # of the file


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of a corpus once it is built; stands in its meta.json."""

    name: str
    documents: int
    train_tokens: int
    val_tokens: int
    vocab_size: int
    dtype: str  # of the tokens: uint16, or uint32 where the vocabulary needs it
    text_sha256: str
    tokens_sha256: str
    shards: tuple[Shard, ...]


def read_facts(folder: Path) -> CorpusFacts:
    """Return the facts of a corpus that was built.

    Raises:
        FileError: meta.json is missing or damaged.
    """
    path = folder / "meta.json"
    try:
        values = read_object(path) or {}
        shards = tuple(Shard(**shard) for shard in values["shards"])
        return CorpusFacts(**values | {"shards": shards})
    except (KeyError, TypeError):  # other keys, or values of other kinds
        what = "is damaged: delete it, and" if path.exists() else "is missing:"
        raise FileError(f"{path} {what} the same command makes it again") from None
