"""A corpus as one stream of tokens on disk, in shards."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.corpus.settings import CorpusSettings
from experiments.corpus.sources import documents
from experiments.files import FileError, atomic, file_sha256, read_object
from experiments.settings import ConfigError

SHARD_DOCUMENTS = 20_000  # held in memory; a tokenizer is trained on the first so many
_DOCUMENTS_AT_ONCE = 1_000  # encoded at once, on all cores


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


def build(name: str, settings: CorpusSettings, folder: Path) -> CorpusFacts:
    """Tokenise every document, and write the files of a corpus.

    `tokenizer.json`, then `shards/00000.bin` and so on (an end-of-text token behind each document),
    and last `meta.json`. The last part of the tokens is for validation. What an earlier attempt
    left is not made again: documents are read once more, but only shards that are not there, or
    that are of another text, are tokenised.

    Args:
        name: of the dataset.
        settings: what to read and how to tokenise it.
        folder: where the files go; made if missing.

    Raises:
        ConfigError: the documents or the tokenizer cannot be read, the tokenizer is not as the
            settings say, or the corpus has too little text to be split.
    """
    texts = documents(name, settings)
    first = list(islice(texts, SHARD_DOCUMENTS))
    tokenizer = _tokenizer(name, settings, first, folder / "tokenizer.json")
    shards = []
    text = hashlib.sha256()
    for number, batch in enumerate(_batches(chain(first, texts), SHARD_DOCUMENTS)):
        text.update(_joined(batch))
        shard = _existing(tokenizer, batch, folder, number)
        if shard is None:
            shard = _write_shard(tokenizer, settings.end_of_text, batch, folder, number)
            print(f"{shard.file}: {shard.documents} documents, {shard.tokens} tokens", flush=True)
        shards.append(shard)
    total = sum(shard.tokens for shard in shards)
    val_tokens = round(total * settings.validation_fraction)
    if not val_tokens:
        raise ConfigError(
            f"datasets.{name} has {total} tokens, but there must be at least one to train on and"
            " one for validation"
        )
    facts = CorpusFacts(
        name=name,
        documents=sum(shard.documents for shard in shards),
        train_tokens=total - val_tokens,
        val_tokens=val_tokens,
        vocab_size=_size(tokenizer),
        dtype=_dtype(tokenizer).name,
        text_sha256=text.hexdigest(),
        tokens_sha256=_sha256_of_all(folder / shard.file for shard in shards),
        shards=tuple(shards),
    )
    with atomic(folder / "meta.json") as path:
        path.write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")
    return facts


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


def train_tokenizer(texts: Iterable[str], vocab_size: int, end_of_text: str) -> Tokenizer:
    """Train a byte-level BPE, which encodes any text without an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end_of_text],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _tokenizer(name: str, settings: CorpusSettings, texts: list[str], path: Path) -> Tokenizer:
    """Return the tokenizer of an earlier attempt, the named one, or one trained on `texts`."""
    if path.exists():
        try:
            return _plain(Tokenizer.from_file(str(path)))
        except Exception:  # the library raises nothing more special on a damaged file
            print(f"{path} is damaged: it is made again", flush=True)
    if settings.tokenizer is None:
        tokenizer = train_tokenizer(texts, settings.vocab_size, settings.end_of_text)
    else:
        tokenizer = _named_tokenizer(name, settings)
    with atomic(path) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return tokenizer


def _named_tokenizer(name: str, settings: CorpusSettings) -> Tokenizer:
    where = f"datasets.{name}"
    is_file = settings.tokenizer.endswith(".json")
    try:
        read = Tokenizer.from_file if is_file else Tokenizer.from_pretrained
        tokenizer = read(settings.tokenizer)
    except Exception as error:  # the library raises nothing more special
        raise ConfigError(
            f"{where}.tokenizer is {settings.tokenizer!r}, which cannot be read:"
            f" {' '.join(str(error).split())}"
        ) from error
    if tokenizer.token_to_id(settings.end_of_text) is None:
        raise ConfigError(
            f"{where}.end_of_text is {settings.end_of_text!r}, but it must be a token of"
            f" {settings.tokenizer}"
        )
    if _size(tokenizer) > settings.vocab_size:
        raise ConfigError(
            f"{where}.vocab_size is {settings.vocab_size}, but the highest token of"
            f" {settings.tokenizer} is {_size(tokenizer) - 1}: it must be above that"
        )
    return _plain(tokenizer)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off truncation, padding and random segmentation, which a tokenizer's file may set."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # arXiv:1910.13267
    return tokenizer


def _size(tokenizer: Tokenizer) -> int:
    """Return one more than the highest token: the rows that an embedding needs, unused ones too."""
    return max(tokenizer.get_vocab().values()) + 1


def _existing(tokenizer: Tokenizer, texts: list[str], folder: Path, number: int) -> Shard | None:
    """Return the shard that an earlier attempt made of these texts, if it is whole."""
    record, path = (folder / _file(number, suffix) for suffix in ("json", "bin"))
    try:
        shard = Shard(**(read_object(record) or {}))
    except TypeError:  # it is missing, or has other keys
        return None
    if not path.exists():
        return None
    is_whole = file_sha256(path) == shard.sha256
    is_same = (shard.text_sha256, shard.tokenizer_sha256) == _made_of(tokenizer, texts)
    return shard if is_whole and is_same else None


def _made_of(tokenizer: Tokenizer, texts: list[str]) -> tuple[str, str]:
    """Return the sha256 of a shard's texts, and of the tokenizer."""
    parts = _joined(texts), tokenizer.to_str().encode()
    of_text, of_tokenizer = (hashlib.sha256(part).hexdigest() for part in parts)
    return of_text, of_tokenizer


def _write_shard(
    tokenizer: Tokenizer, end_of_text: str, texts: list[str], folder: Path, number: int
) -> Shard:
    """Tokenise the documents of one shard; write its tokens, then its record."""
    end, dtype = tokenizer.token_to_id(end_of_text), _dtype(tokenizer)
    stream = hashlib.sha256()
    with atomic(folder / _file(number, "bin")) as path, path.open("wb") as file:
        for batch in _batches(iter(texts), _DOCUMENTS_AT_ONCE):
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            tokens = np.concatenate([np.array([*e.ids, end], dtype=dtype) for e in encodings])
            stream.update(tokens)
            file.write(tokens)
        size = file.tell()
    text_sha256, tokenizer_sha256 = _made_of(tokenizer, texts)
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
    """Return the smallest unsigned type that holds every token."""
    return np.dtype(np.uint16 if _size(tokenizer) <= 2**16 else np.uint32)


def _joined(texts: list[str]) -> bytes:
    return "\0".join(texts).encode() + b"\0"


def _sha256_of_all(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _batches(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
