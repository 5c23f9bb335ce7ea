"""The tokenizer of a corpus: trained on its text, or a given one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.corpus.settings import CorpusSettings
from experiments.corpus.tokens import read_tokens
from experiments.files import atomic
from experiments.settings import ConfigError

_MOST_TOKENS = 2**24  # of the validation text, whose bytes are counted


def train_tokenizer(texts: Iterable[str], vocab_size: int, end_of_text: str) -> Tokenizer:
    """Train a byte-level BPE, which can encode any text without an unknown token."""
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


def tokenizer_of(name: str, settings: CorpusSettings, texts: list[str], path: Path) -> Tokenizer:
    """Return the tokenizer of a corpus, and save it at `path`.

    A tokenizer that an earlier attempt saved at `path` is reused. Otherwise the settings name a
    tokenizer, or a new one is trained on `texts`.

    Raises:
        ConfigError: the named tokenizer cannot be read or contradicts the settings.
        FileError: `path` cannot be written.
    """
    if path.exists():
        try:
            return _plain(Tokenizer.from_file(str(path)))
        except Exception:  # the library raises a plain Exception for a damaged file
            print(f"{path} is damaged: it is made again", flush=True)
    if settings.tokenizer is None:
        tokenizer = train_tokenizer(texts, settings.vocab_size, settings.end_of_text)
    else:
        tokenizer = _named_tokenizer(name, settings)
    with atomic(path) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return tokenizer


def _named_tokenizer(name: str, settings: CorpusSettings) -> Tokenizer:
    """Load a tokenizer from a file or from the hub, and check it against the settings."""
    where = ("datasets", name)
    is_file = settings.tokenizer.endswith(".json")
    try:
        read = Tokenizer.from_file if is_file else Tokenizer.from_pretrained
        tokenizer = read(settings.tokenizer)
    except Exception as error:  # the library raises a plain Exception
        raise ConfigError(
            (*where, "tokenizer"),
            f"is {settings.tokenizer!r}, which cannot be read: {' '.join(str(error).split())}",
        ) from error
    if tokenizer.token_to_id(settings.end_of_text) is None:
        raise ConfigError(
            (*where, "end_of_text"),
            f"is {settings.end_of_text!r}, but it must be a token of {settings.tokenizer}",
        )
    if vocab_size(tokenizer) > settings.vocab_size:
        raise ConfigError(
            (*where, "vocab_size"),
            f"is {settings.vocab_size}, but the highest token of {settings.tokenizer} is"
            f" {vocab_size(tokenizer) - 1}: it must be above that",
        )
    return _plain(tokenizer)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """Disable truncation, padding and BPE dropout, which a tokenizer file may enable."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None  # random segmentation, arXiv:1910.13267
    return tokenizer


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return the number of embedding rows that a tokenizer needs: its highest token id plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def bytes_per_token(folder: Path) -> float:
    """Return the bytes of UTF-8 text that a token of a corpus's validation text has on average.

    At most the first 2^24 validation tokens are counted. Special tokens have no bytes.

    Args:
        folder: the corpus.

    Raises:
        FileError: the corpus is missing or damaged.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _, val = read_tokens(folder)
    counts = np.bincount(val.first(min(len(val), _MOST_TOKENS)))
    present = np.flatnonzero(counts)
    # A byte-level token has a character for each of its bytes. Decoded alone, bytes of a larger
    # character would become a replacement character.
    is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    lengths = []
    for token in present:
        text = tokenizer.id_to_token(int(token))
        if text in special:
            lengths.append(0)
        elif is_byte_level:
            lengths.append(len(text))
        else:
            lengths.append(len(tokenizer.decode([int(token)]).encode()))
    return float(np.average(lengths, weights=counts[present]))
