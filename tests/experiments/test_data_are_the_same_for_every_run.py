"""A corpus is built the same everywhere, and a batch depends on the seed and the step alone."""

import hashlib
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from experiments.config import load_profile
from experiments.corpus import build, read_facts
from experiments.corpus_settings import DocstringCorpus, HuggingFaceCorpus, TextCorpus
from experiments.data import TokenBatches, check_size
from experiments.settings import ConfigError
from experiments.sources import documents, fingerprint
from experiments.tokens import read_tokens
from tests.conftest import TEXT, all_tokens


def test_a_corpus_built_twice_is_the_same(tmp_path):
    settings = DocstringCorpus(kind="docstrings", packages=("networkx",), vocab_size=1000)
    first = build("docs", settings, tmp_path / "first")
    second = build("docs", settings, tmp_path / "second")
    assert first == second
    content = (tmp_path / "first" / "shards" / "00000.bin").read_bytes()
    assert hashlib.sha256(content).hexdigest() == first.tokens_sha256
    assert len(content) == 2 * (first.train_tokens + first.val_tokens)


def test_the_built_in_corpus_is_the_recorded_text():
    settings = load_profile("laptop").datasets["docstrings"]
    digest = hashlib.sha256()
    for text in documents("docstrings", settings):
        digest.update(text.encode() + b"\0")
    assert digest.hexdigest() == settings.sha256


def test_docstrings_are_real_text_and_each_stands_once():
    settings = DocstringCorpus(kind="docstrings", packages=("networkx",))
    texts = list(documents("docs", settings))
    assert len(texts) == len(set(texts)) > 1000
    assert any("shortest path" in text for text in texts)


def test_tokens_decode_to_the_text_they_came_from(tiny_corpus):
    tokens = np.concatenate([all_tokens(stream) for stream in read_tokens(tiny_corpus)])
    tokenizer = Tokenizer.from_file(str(tiny_corpus / "tokenizer.json"))
    assert tokenizer.decode(tokens.tolist(), skip_special_tokens=True) == TEXT


def test_the_end_of_the_tokens_is_for_validation(tiny_corpus):
    facts = read_facts(tiny_corpus)
    train, validation = read_tokens(tiny_corpus)
    assert (len(train), len(validation)) == (facts.train_tokens, facts.val_tokens)
    assert len(validation) == pytest.approx(0.05 * (len(train) + len(validation)), abs=1)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_datasets_is_read_from_a_local_folder(tmp_path, streaming):
    texts = [f"Document {i} has its own words." for i in range(50)]
    rows = "".join(json.dumps({"title": "a title", "body": text}) + "\n" for text in texts)
    (tmp_path / "rows.jsonl").write_text(rows)
    settings = HuggingFaceCorpus(
        kind="huggingface",
        path=str(tmp_path),
        text_field="body",
        streaming=streaming,
        max_documents=40,
    )
    assert list(documents("local", settings)) == texts[:40]


def test_a_dataset_without_text_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text('{"text": ""}\n')
    settings = HuggingFaceCorpus(kind="huggingface", path=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"datasets.empty has 1 tokens, but there must be"):
        build("empty", settings, tmp_path / "corpus")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"title": "a", "body": "b"}\n')
    settings = HuggingFaceCorpus(kind="huggingface", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"text_field is 'text', .* the columns are title, body"):
        list(documents("local", settings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"datasets.mine.files has '.*', which is empty: it must hold text"),
        (b"good \xff bad", r"must be UTF-8 text but has an invalid byte at offset 5"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        fingerprint("mine", TextCorpus(kind="text", files=(str(path),)))


def test_files_and_packages_that_are_not_there_are_refused(tmp_path):
    missing = str(tmp_path / "*.txt")
    with pytest.raises(ConfigError, match=r"but no such file exists"):
        fingerprint("mine", TextCorpus(kind="text", files=(missing,)))
    with pytest.raises(ConfigError, match=r"'nosuch', but it must be an installed package"):
        fingerprint("docs", DocstringCorpus(kind="docstrings", packages=("nosuch",)))


def test_a_text_that_is_edited_is_another_corpus(tmp_path):
    path = tmp_path / "mine.txt"
    settings = TextCorpus(kind="text", files=(str(path),))
    path.write_text("one")
    before = fingerprint("mine", settings)
    path.write_text("two")
    assert fingerprint("mine", settings) != before


def test_a_batch_depends_on_seed_and_step_alone(tiny_corpus):
    batches, again = TokenBatches(tiny_corpus, 16), TokenBatches(tiny_corpus, 16)
    batches.train(seed=0, step=6, batch_size=4)  # what was asked before does not matter
    first = batches.train(seed=0, step=7, batch_size=4)
    for ours, theirs in zip(first, again.train(seed=0, step=7, batch_size=4), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first[0], batches.train(seed=0, step=8, batch_size=4)[0])
    assert not torch.equal(first[0], batches.train(seed=1, step=7, batch_size=4)[0])


def test_targets_are_one_token_ahead_and_from_the_training_part(tiny_corpus):
    batches = TokenBatches(tiny_corpus, 16)
    train = all_tokens(batches.train_tokens)
    windows = {tuple(train[i : i + 17]) for i in range(len(train) - 16)}
    inputs, targets = batches.train(seed=3, step=0, batch_size=50)
    assert inputs.shape == targets.shape == (50, 16)
    for row, ahead in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert (*row, ahead[-1]) in windows
        assert row[1:] == ahead[:-1]


def test_validation_windows_are_spread_over_the_validation_part(tiny_corpus):
    batches = TokenBatches(tiny_corpus, 16)
    windows = batches.validation(sequences=5, batch_size=2)
    assert [len(inputs) for inputs, _ in windows] == [2, 2, 1]
    first, last = windows[0][0][0], windows[-1][1][-1]
    tokens = all_tokens(batches.val_tokens).tolist()
    assert first.tolist() == tokens[:16]
    assert last.tolist() == tokens[-16:]


def test_a_batch_larger_than_the_corpus_is_refused(tiny_corpus):
    facts = read_facts(tiny_corpus)
    check_size(facts, batch_size=4, context=16)
    with pytest.raises(ConfigError, match=r"10000 × 16 = 160000 tokens, but it must be below"):
        check_size(facts, batch_size=10_000, context=16)
    with pytest.raises(ConfigError, match=r"training.context is .* validation tokens"):
        check_size(facts, batch_size=1, context=facts.val_tokens)
