"""A corpus as one stream of tokens on disk: built once, read through a memmap."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.corpus_settings import CorpusSettings
from experiments.files import atomic
from experiments.settings import ConfigError
from experiments.sources import documents

END_OF_TEXT = "<|endoftext|>"
TOKEN_DTYPE = np.uint16
TOKENIZER_DOCUMENTS = 20_000  # the tokenizer is trained on no more than this; held in memory
_DOCUMENTS_AT_ONCE = 1_000


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of a corpus once it is built; stands in its meta.json."""

    name: str
    documents: int
    train_tokens: int
    val_tokens: int
    vocab_size: int
    text_sha256: str
    tokens_sha256: str


def build(name: str, settings: CorpusSettings, folder: Path) -> CorpusFacts:
    """Train the tokenizer, tokenise every document, and write the three files of a corpus.

    `tokenizer.json`, then `tokens.bin` (uint16, an end-of-text token behind each document), and
    last `meta.json`. The last part of the tokens is for validation.

    Args:
        name: of the dataset.
        settings: what to read and how to tokenise it.
        folder: where the files go; made if missing.

    Raises:
        ConfigError: the corpus has too little text to be split.
    """
    texts = documents(name, settings)
    first = list(islice(texts, TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(first, settings.vocab_size)
    with atomic(folder / "tokenizer.json") as path:
        tokenizer.save(str(path))
    count, text, stream = 0, hashlib.sha256(), hashlib.sha256()
    with atomic(folder / "tokens.bin") as path, path.open("wb") as file:
        for batch in _batches(chain(first, texts)):
            count += len(batch)
            tokens = _encode(tokenizer, batch)
            text.update("\0".join(batch).encode() + b"\0")
            stream.update(tokens)
            file.write(tokens)
        total = file.tell() // TOKEN_DTYPE().itemsize
    val_tokens = round(total * settings.validation_fraction)
    if not val_tokens:
        raise ConfigError(
            f"datasets.{name} has {total} tokens, but there must be at least one to train on and"
            " one for validation"
        )
    facts = CorpusFacts(
        name=name,
        documents=count,
        train_tokens=total - val_tokens,
        val_tokens=val_tokens,
        vocab_size=tokenizer.get_vocab_size(),
        text_sha256=text.hexdigest(),
        tokens_sha256=stream.hexdigest(),
    )
    with atomic(folder / "meta.json") as path:
        path.write_text(json.dumps(asdict(facts), indent=2) + "\n")
    return facts


def read_facts(folder: Path) -> CorpusFacts:
    """Return the facts of a corpus that was built."""
    return CorpusFacts(**json.loads((folder / "meta.json").read_text()))


def read_tokens(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens for training and those for validation, uint16 memmaps of one dimension."""
    facts = read_facts(folder)
    tokens = np.memmap(folder / "tokens.bin", dtype=TOKEN_DTYPE, mode="r")
    return tokens[: facts.train_tokens], tokens[facts.train_tokens :]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE, which encodes any text without an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.concatenate([np.array([*e.ids, end], dtype=TOKEN_DTYPE) for e in encodings])


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(texts, _DOCUMENTS_AT_ONCE)):
        yield batch
