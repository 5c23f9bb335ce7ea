"""Tokenise a corpus and write it to disk as one stream of tokens, in shards."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from experiments.corpus.facts import CorpusFacts, Shard
from experiments.corpus.settings import CorpusSettings
from experiments.corpus.sources import documents
from experiments.corpus.tokenizer import tokenizer_of, vocab_size
from experiments.files import atomic, file_sha256, read_object
from experiments.settings import ConfigError

# Documents per shard. A shard is held in memory, and a tokenizer is trained on the first shard.
SHARD_DOCUMENTS = 20_000
_DOCUMENTS_PER_BATCH = 1_000  # documents that one call of the tokenizer encodes, on all cores


def build(name: str, settings: CorpusSettings, folder: Path) -> CorpusFacts:
    """Tokenise all documents and write the corpus to `folder`.

    The files are written in this order: `tokenizer.json`; the shards `shards/00000.bin` and so on,
    in which an end-of-text token follows each document; `meta.json`. The last tokens of the stream
    are reserved for validation.

    An interrupted build can be resumed. All documents are read again, but a shard is tokenised only
    if it is missing, damaged, or made from other text or with another tokenizer.

    Args:
        name: name of the dataset.
        settings: the text to read and how to tokenise it.
        folder: folder of the corpus; created if missing.

    Raises:
        ConfigError: the documents or the tokenizer cannot be read, the tokenizer contradicts the
            settings, or the corpus has too few tokens to be split.
        FileError: a file cannot be written.
    """
    texts = documents(name, settings)
    first = list(islice(texts, SHARD_DOCUMENTS))
    tokenizer = tokenizer_of(name, settings, first, folder / "tokenizer.json")
    shards = []
    text = hashlib.sha256()
    for number, batch in enumerate(_batches(chain(first, texts), SHARD_DOCUMENTS)):
        text.update(_joined(batch))
        shard = _reusable_shard(tokenizer, batch, folder, number)
        if shard is None:
            shard = _write_shard(tokenizer, settings.end_of_text, batch, folder, number)
            print(f"{shard.file}: {shard.documents} documents, {shard.tokens} tokens", flush=True)
        shards.append(shard)
    total = sum(shard.tokens for shard in shards)
    val_tokens = round(total * settings.validation_fraction)
    if not val_tokens:
        raise ConfigError(
            ("datasets", name),
            f"has {total} tokens, but there must be at least one to train on and one for"
            " validation",
        )
    facts = CorpusFacts(
        name=name,
        documents=sum(shard.documents for shard in shards),
        train_tokens=total - val_tokens,
        val_tokens=val_tokens,
        vocab_size=vocab_size(tokenizer),
        dtype=_dtype(tokenizer).name,
        text_sha256=text.hexdigest(),
        tokens_sha256=_sha256_of_all(folder / shard.file for shard in shards),
        shards=tuple(shards),
    )
    with atomic(folder / "meta.json") as path:
        path.write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")
    return facts


def _reusable_shard(
    tokenizer: Tokenizer, texts: list[str], folder: Path, number: int
) -> Shard | None:
    """Return an intact shard that an earlier attempt made from these texts; None without one."""
    record, path = (folder / _file(number, suffix) for suffix in ("json", "bin"))
    try:
        shard = Shard(**(read_object(record) or {}))
    except TypeError:  # the record is missing or has other keys
        return None
    if not path.exists():
        return None
    is_whole = file_sha256(path) == shard.sha256
    is_same = (shard.text_sha256, shard.tokenizer_sha256) == _input_hashes(tokenizer, texts)
    return shard if is_whole and is_same else None


def _input_hashes(tokenizer: Tokenizer, texts: list[str]) -> tuple[str, str]:
    """Return the sha256 of a shard's texts and the sha256 of the tokenizer."""
    parts = _joined(texts), tokenizer.to_str().encode()
    of_text, of_tokenizer = (hashlib.sha256(part).hexdigest() for part in parts)
    return of_text, of_tokenizer


def _write_shard(
    tokenizer: Tokenizer, end_of_text: str, texts: list[str], folder: Path, number: int
) -> Shard:
    """Tokenise the documents of one shard. Write its tokens, then its record as JSON."""
    end, dtype = tokenizer.token_to_id(end_of_text), _dtype(tokenizer)
    stream = hashlib.sha256()
    with atomic(folder / _file(number, "bin")) as path, path.open("wb") as file:
        for batch in _batches(iter(texts), _DOCUMENTS_PER_BATCH):
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            tokens = np.concatenate([np.array([*e.ids, end], dtype=dtype) for e in encodings])
            stream.update(tokens)
            file.write(tokens)
        size = file.tell()
    text_sha256, tokenizer_sha256 = _input_hashes(tokenizer, texts)
    shard = Shard(
        file=_file(number, "bin"),
        documents=len(texts),
        tokens=size // dtype.itemsize,
        text_sha256=text_sha256,
        tokenizer_sha256=tokenizer_sha256,
        sha256=stream.hexdigest(),
    )
    with atomic(folder / _file(number, "json")) as path:
        path.write_text(json.dumps(asdict(shard), indent=2) + "\n", encoding="utf-8")
    return shard


def _file(number: int, suffix: str) -> str:
    return f"shards/{number:05}.{suffix}"


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    """Return the smallest unsigned dtype that can store every token id."""
    return np.dtype(np.uint16 if vocab_size(tokenizer) <= 2**16 else np.uint32)


def _joined(texts: list[str]) -> bytes:
    """Return the texts as bytes, a NUL after each, so that their boundaries enter the hash."""
    return "\0".join(texts).encode() + b"\0"


def _sha256_of_all(paths: Iterable[Path]) -> str:
    """Return the sha256 of the contents of several files, concatenated."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
