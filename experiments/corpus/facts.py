"""Metadata of a built corpus, stored in its meta.json."""

from dataclasses import dataclass
from pathlib import Path

from experiments.files import FileError, read_object


@dataclass(frozen=True)
class Shard:
    """Metadata of one shard, also stored as JSON beside its .bin file."""

    file: str  # path of the .bin file, relative to the folder of the corpus
    documents: int
    tokens: int
    text_sha256: str  # sha256 of the texts that the tokens come from
    tokenizer_sha256: str
    sha256: str  # sha256 of the .bin file


@dataclass(frozen=True)
class CorpusFacts:
    """Metadata of a built corpus."""

    name: str
    documents: int
    train_tokens: int
    val_tokens: int
    vocab_size: int
    dtype: str  # dtype of the token ids: uint16, or uint32 for a vocabulary above 65536
    text_sha256: str  # sha256 of the text of all documents
    tokens_sha256: str  # sha256 of the tokens of all shards
    shards: tuple[Shard, ...]


def read_facts(folder: Path) -> CorpusFacts:
    """Read the metadata of a built corpus.

    Raises:
        FileError: meta.json is missing or damaged.
    """
    path = folder / "meta.json"
    try:
        values = read_object(path) or {}
        shards = tuple(Shard(**shard) for shard in values["shards"])
        return CorpusFacts(**values | {"shards": shards})
    except (KeyError, TypeError):  # unexpected keys, or values of unexpected types
        problem = "is damaged: delete it, and" if path.exists() else "is missing:"
        raise FileError(f"{path} {problem} the same command makes it again") from None
