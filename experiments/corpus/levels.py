"""Losses of n-gram models, to which the losses of trained models are compared."""

from typing import NamedTuple

import numpy as np

from experiments.corpus.tokens import TokenStream

_MOST_TRAIN_TOKENS = 2**26
_MOST_VAL_TOKENS = 2**24
_DISCOUNT = 0.75  # taken from the count of each pair of tokens


class Levels(NamedTuple):
    """Cross-entropies of n-gram models on validation text, in nats per token."""

    unigram: float
    bigram: float


def ngram_losses(train: TokenStream, val: TokenStream, tokens: int, vocab_size: int) -> Levels:
    """Return the validation losses of a unigram and a bigram model fitted to training tokens.

    With c the counts in the training tokens and V the vocabulary size:

    - unigram, add-one smoothing: P1(b) = (c(b) + 1) / (tokens + V);
    - bigram, absolute discounting interpolated with the unigram (Ney, Essen and Kneser 1994,
      doi:10.1006/csla.1994.1001): P(b|a) = (max(c(ab) - 0.75, 0) + 0.75 · types(a) · P1(b)) / c(a),
      where types(a) is the number of distinct tokens after a and c(a) is the number of tokens after
      it; P(b|a) = P1(b) for an `a` that was not seen.

    Both predict every validation token but the first. To bound time and memory, at most the first
    2^26 training tokens and the first 2^24 validation tokens are used. With more training tokens
    the losses would be lower, so for longer runs they are upper bounds.

    Args:
        train: the training tokens.
        val: the validation tokens, at least two.
        tokens: number of training tokens to fit to, from the first; all if there are fewer.
        vocab_size: number of token ids.
    """
    fitted = train.first(min(tokens, len(train), _MOST_TRAIN_TOKENS))
    predicted = val.first(min(len(val), _MOST_VAL_TOKENS))
    unigram = (np.bincount(fitted, minlength=vocab_size) + 1) / (len(fitted) + vocab_size)
    pairs, counts = np.unique(_pairs(fitted, vocab_size), return_counts=True)
    seen = np.bincount(fitted[:-1], minlength=vocab_size)
    types = np.bincount(pairs // vocab_size, minlength=vocab_size)

    val_pairs, weights = np.unique(_pairs(predicted, vocab_size), return_counts=True)
    before, after = np.divmod(val_pairs, vocab_size)
    discounted = np.zeros(len(val_pairs))
    _, at, found = np.intersect1d(val_pairs, pairs, assume_unique=True, return_indices=True)
    discounted[at] = counts[found] - _DISCOUNT
    is_known = seen[before] > 0
    # A token that was not seen gets all its probability from the unigram.
    total = np.where(is_known, seen[before], 1)
    left = np.where(is_known, _DISCOUNT * types[before], 1.0)
    bigram = (discounted + left * unigram[after]) / total
    return Levels(
        float(-np.average(np.log(unigram[after]), weights=weights)),
        float(-np.average(np.log(bigram), weights=weights)),
    )


def _pairs(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return each pair of neighbouring tokens as one number, int64, shape (len(tokens) - 1,)."""
    return tokens[:-1] * vocab_size + tokens[1:]
