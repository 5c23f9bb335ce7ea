"""The levels of a corpus are the losses of a unigram and a bigram model, and stand in the plan."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analysis.frames import read_plan, read_results
from experiments.__main__ import main
from experiments.corpus import levels
from experiments.corpus.facts import read_facts
from experiments.corpus.levels import ngram_losses
from experiments.corpus.tokens import TokenStream, read_tokens
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from tests.conftest import all_tokens, profile_values, write_profile


def stream_of(tokens):
    tokens = np.array(tokens, dtype=np.uint16)
    half = len(tokens) // 2
    return TokenStream([tokens[:half], tokens[half:]], 0, len(tokens))


def unigram(train, vocab_size):
    counts = Counter(train)
    return lambda b: (counts[b] + 1) / (len(train) + vocab_size)


def bigram(train, vocab_size):
    """Return the probability of a token after another, as dictionaries give it."""
    alone, pairs = unigram(train, vocab_size), Counter(pairwise(train))
    seen, types = Counter(train[:-1]), Counter(a for a, _ in pairs)

    def probability(a, b):
        if a not in seen:
            return alone(b)
        return max(pairs[a, b] - 0.75, 0) / seen[a] + 0.75 * types[a] / seen[a] * alone(b)

    return probability


def slow_losses(train, val, vocab_size):
    """Return both losses by a loop over the pairs of validation tokens."""
    alone, after = unigram(train, vocab_size), bigram(train, vocab_size)
    pairs = [*pairwise(val)]
    return (
        -math.fsum(math.log(alone(b)) for _, b in pairs) / len(pairs),
        -math.fsum(math.log(after(a, b)) for a, b in pairs) / len(pairs),
    )


@pytest.mark.parametrize("tokens", [1, 2, 50, 400, 10_000])
def test_the_losses_are_those_of_a_loop_with_dictionaries(tokens):
    rng = np.random.default_rng(0)
    train, val = (rng.zipf(1.3, size).clip(max=60) - 1 for size in (500, 300))
    val = np.append(val, [60, 61, 60])  # tokens that the training part lacks
    expected = slow_losses(train[:tokens].tolist(), val.tolist(), 62)
    assert ngram_losses(stream_of(train), stream_of(val), tokens, 62) == pytest.approx(
        expected, rel=1e-12
    )


def test_the_probabilities_after_any_token_sum_to_one():
    rng = np.random.default_rng(1)
    train = rng.integers(0, 9, 40)
    for a in range(10):  # 9 is not seen
        losses = [
            ngram_losses(stream_of(train), stream_of([a, b]), 40, 10).bigram for b in range(10)
        ]
        assert np.exp(-np.array(losses)).sum() == pytest.approx(1, rel=1e-12)


def test_a_long_stream_is_cut(monkeypatch):
    monkeypatch.setattr(levels, "_MOST_TRAIN_TOKENS", 100)
    monkeypatch.setattr(levels, "_MOST_VAL_TOKENS", 60)
    rng = np.random.default_rng(2)
    train, val = rng.integers(0, 20, 500), rng.integers(0, 20, 200)
    expected = slow_losses(train[:100].tolist(), val[:60].tolist(), 20)
    assert ngram_losses(stream_of(train), stream_of(val), 400, 20) == pytest.approx(expected)


@pytest.fixture
def planned(tmp_path, text_file, tiny_corpus, monkeypatch):
    """Return a function that runs the command plan for a profile, and returns the plan's path."""

    def make(**experiment):
        values = profile_values(text_file)
        values["experiments"]["comparison"] |= experiment
        profile = write_profile(tmp_path / "mine.yaml", values)
        corpora = tmp_path / "corpora"
        corpora.mkdir()
        name = plan(load_profile(str(profile)))[0].spec.corpus.path
        (corpora / name).symlink_to(tiny_corpus)
        files = ["--output", str(tmp_path / "plan.csv"), "--settings", str(tmp_path / "plan.yaml")]
        main(["plan", "--profile", str(profile), "--corpora", str(corpora), *files])
        return tmp_path / "plan.csv"

    return make


def test_each_row_of_a_plan_has_the_levels_of_the_tokens_it_trains_on(planned, tiny_corpus):
    rows = read_plan(planned(optimizers=["adamw"], training={"steps": [12, 24]}))
    train, val = (all_tokens(stream).tolist() for stream in read_tokens(tiny_corpus))
    vocab_size = read_facts(tiny_corpus).vocab_size
    levels_of = {steps: slow_losses(train[: steps * 4 * 16], val, vocab_size) for steps in (12, 24)}
    assert [row["planned_steps"] for row in rows] == [12, 12, 24, 24]
    for row in rows:
        found = row["unigram_loss"], row["bigram_loss"]
        assert found == pytest.approx(levels_of[row["planned_steps"]])
    runs = read_results(rows, tiny_corpus).runs
    assert runs["bigram_loss"].tolist() == [row["bigram_loss"] for row in rows]


def test_levels_are_computed_once_for_all_runs_that_share_them(planned, monkeypatch):
    calls = []

    def counted(train, val, tokens, vocab_size):
        calls.append(tokens)
        return ngram_losses(train, val, tokens, vocab_size)

    monkeypatch.setattr("experiments.plan.preflight.ngram_losses", counted)
    planned(training={"steps": [12, 24]})
    assert calls == [12 * 4 * 16, 24 * 4 * 16]


def test_a_plan_of_an_older_version_is_read_without_levels(planned, tmp_path):
    path = planned()
    older = pd.read_csv(path).drop(columns=["unigram_loss", "bigram_loss"])
    older.to_csv(path, index=False)
    runs = read_results(read_plan(path), tmp_path).runs
    assert runs[["unigram_loss", "bigram_loss"]].isna().all(axis=None)
    assert len(runs) == len(older) > 0
