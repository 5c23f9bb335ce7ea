"""A corpus is the same on every machine, and a batch depends only on the seed and the step."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from experiments.corpus import sources
from experiments.corpus.batches import TokenBatches, check_epochs, check_size
from experiments.corpus.build import build
from experiments.corpus.facts import read_facts
from experiments.corpus.settings import Corpus, DocstringCorpus, HuggingFaceCorpus, TextCorpus
from experiments.corpus.sources import documents, fingerprint
from experiments.corpus.tokenizer import bytes_per_token
from experiments.corpus.tokens import read_tokens
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError
from tests.conftest import TEXT, all_tokens


def test_a_corpus_built_twice_is_the_same(tmp_path):
    settings = DocstringCorpus(kind="docstrings", packages=("networkx",), vocab_size=1000)
    first = build("docs", settings, tmp_path / "first")
    second = build("docs", settings, tmp_path / "second")
    assert first == second
    content = (tmp_path / "first" / "shards" / "00000.bin").read_bytes()
    assert hashlib.sha256(content).hexdigest() == first.tokens_sha256
    assert len(content) == 2 * (first.train_tokens + first.val_tokens)


@pytest.mark.parametrize("name", ["docstrings", "docstrings-large"])
def test_a_built_in_corpus_is_the_recorded_text(name):
    settings = load_profile("laptop").datasets[name]
    digest = hashlib.sha256()
    for text in documents(name, settings):
        digest.update(text.encode() + b"\0")
    assert digest.hexdigest() == settings.sha256


def test_docstrings_are_real_text_without_duplicates():
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


@pytest.mark.parametrize("pattern", ["nosuch/*.txt", "typo.txt"])
def test_a_pattern_without_files_is_refused_also_beside_others(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("one")
    with pytest.raises(ConfigError, match=f"files has '{re.escape(pattern)}', but no such file"):
        fingerprint("mine", TextCorpus(kind="text", files=("*.txt", pattern)))


@pytest.mark.parametrize("package", ["nosuch", "threading"])
def test_packages_that_are_not_there_are_refused(package):
    with pytest.raises(ConfigError, match=f"'{package}', but it must be an installed package"):
        fingerprint("docs", DocstringCorpus(kind="docstrings", packages=(package,)))


def test_each_file_is_read_once_whatever_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"This is {name}.")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "copy.txt").write_text("This is b.")
    patterns = ("*.txt", "a.txt", "./a.txt", str(tmp_path / "b.txt"))
    texts = list(documents("mine", TextCorpus(kind="text", files=patterns)))
    assert sorted(texts) == ["This is a.", "This is b.", "This is c."]


def test_an_empty_file_among_others_and_the_mark_of_utf_8_are_no_text(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "marked.txt").write_bytes("\ufeffText.".encode())
    settings = TextCorpus(kind="text", files=(str(tmp_path / "*.txt"),))
    assert list(documents("mine", settings)) == ["Text."]


def text_corpus(folder):
    return TextCorpus(kind="text", files=(f"{folder}/*.txt",))


def folder_of_rows(folder):
    return HuggingFaceCorpus(kind="huggingface", path=str(folder))


def text_with_a_tokenizer(folder):
    return TextCorpus(kind="text", files=(f"{folder}/*.txt",), tokenizer=f"{folder}/words.json")


@pytest.mark.parametrize("settings", [text_corpus, folder_of_rows, text_with_a_tokenizer])
def test_the_same_files_elsewhere_are_the_same_corpus_and_edited_ones_another(tmp_path, settings):
    def identity(folder):
        found = settings(folder)
        return Corpus(name="mine", settings=found, sources=fingerprint("mine", found)).path

    here, there = tmp_path / "here", tmp_path / "there" / "deeper"
    for folder in (here, there):
        folder.mkdir(parents=True)
        for name in ("a.txt", "b.txt", "words.json"):
            (folder / name).write_text(f"content of {name}")
    before = identity(here)
    assert identity(there) == before
    changed = "words.json" if settings is text_with_a_tokenizer else "b.txt"
    (there / changed).write_text("changed")
    assert identity(there) != before


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the folder of an importable package that no installer has a record of."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "documented"
    (folder / "old").mkdir(parents=True)
    (folder / "__init__.py").write_text(f'"""{"The package itself. " * 9}"""')
    (folder / "_config.py").write_text(f'"""{"Of this machine. " * 9}"""')
    (folder / "old" / "__init__.py").write_text(f'"""{"Gone in later versions. " * 9}"""')
    return folder


def test_a_package_is_identified_by_its_files_and_not_by_its_version(package):
    settings = DocstringCorpus(kind="docstrings", packages=("documented",))
    before = fingerprint("docs", settings)
    assert fingerprint("docs", settings) == before
    (package / "_config.py").write_text(f'"""{"Of another machine. " * 9}"""')
    assert fingerprint("docs", settings) != before


def test_what_not_every_machine_has_is_left_out(package):
    settings = DocstringCorpus(
        kind="docstrings",
        packages=("documented",),
        exclude=("documented/old", "documented/_config.py"),
    )
    before, texts = fingerprint("docs", settings), list(documents("docs", settings))
    (package / "_config.py").write_text(f'"""{"Of another machine. " * 9}"""')
    shutil.rmtree(package / "old")
    assert fingerprint("docs", settings) == before
    assert list(documents("docs", settings)) == texts == ["The package itself. " * 9]


def test_a_module_that_cannot_be_read_is_named(package):
    (package / "broken.py").write_text("print 'of Python 2'")
    with pytest.raises(ConfigError, match=r"documented/broken\.py cannot be read .*: name it in"):
        list(documents("docs", DocstringCorpus(kind="docstrings", packages=("documented",))))


def test_what_the_installer_recorded_are_the_files_hashes(monkeypatch):
    settings = DocstringCorpus(kind="docstrings", packages=("networkx",))
    recorded = fingerprint("docs", settings)
    monkeypatch.setattr(sources, "_recorded", lambda package: {})
    assert fingerprint("docs", settings) == recorded


@pytest.mark.parametrize(("field", "value"), [("body", None), ("body", 3), ("title", None)])
def test_a_row_without_text_is_named(tmp_path, field, value):
    rows = [{"title": f"title {i}", "body": f"body {i}"} for i in range(50)]
    for row in rows:
        row[field] = value if row["title"] == "title 30" or value == 3 else row[field]
    rows[30][field] = value
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = HuggingFaceCorpus(kind="huggingface", path=str(tmp_path), text_field=field)
    number = 0 if value == 3 else 30
    message = rf"row {number}, counted from 0, has no text in the column '{field}', but {value}"
    with pytest.raises(ConfigError, match=message):
        list(documents("local", settings))


def test_a_batch_depends_on_seed_and_step_alone(tiny_corpus):
    batches, again = TokenBatches(tiny_corpus, 16), TokenBatches(tiny_corpus, 16)
    batches.train(seed=0, step=6, batch_size=4)  # earlier calls do not matter
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
    starts = batches.curve_starts(sequences=5)
    assert np.ptp(np.diff(starts)) <= 1  # evenly spaced, but for rounding
    inputs, targets = batches.val_windows(starts)
    assert inputs.shape == targets.shape == (5, 16)
    tokens = all_tokens(batches.val_tokens).tolist()
    assert inputs[0].tolist() == tokens[:16]
    assert targets[-1].tolist() == tokens[-16:]


def test_final_windows_predict_each_validation_token_once(tiny_corpus):
    batches = TokenBatches(tiny_corpus, 16)
    inputs, targets = batches.val_windows(batches.final_starts(None))
    tokens = all_tokens(batches.val_tokens)
    assert 0 <= len(tokens) - 1 - targets.numel() < 16
    np.testing.assert_array_equal(targets.flatten(), tokens[1 : 1 + targets.numel()])
    np.testing.assert_array_equal(inputs.flatten(), tokens[: inputs.numel()])
    np.testing.assert_array_equal(
        batches.final_starts(10_000), batches.final_starts(None), "more windows than there are"
    )


def test_a_limited_number_of_final_windows_is_spread_over_the_stream(tiny_corpus):
    batches = TokenBatches(tiny_corpus, 16)
    whole, some = batches.final_starts(None), batches.final_starts(4)
    assert len(set(some)) == 4
    assert set(some) < set(whole)
    assert (some[0], some[-1]) == (whole[0], whole[-1])
    assert np.ptp(np.diff(some)) <= 16  # evenly spaced, but for rounding to whole windows


def test_a_batch_larger_than_the_corpus_is_refused(tiny_corpus):
    facts = read_facts(tiny_corpus)
    check_size(facts, batch_size=4, context=16)
    with pytest.raises(ConfigError, match=r"10000 × 16 = 160000 tokens, but it must be below"):
        check_size(facts, batch_size=10_000, context=16)
    with pytest.raises(ConfigError, match=r"training.context is .* validation tokens"):
        check_size(facts, batch_size=1, context=facts.val_tokens)


def test_text_that_is_repeated_too_often_is_warned_of_and_then_refused(tiny_corpus):
    facts = read_facts(tiny_corpus)
    assert check_epochs(facts, 4 * facts.train_tokens) == ""
    warned = check_epochs(facts, 5 * facts.train_tokens)
    assert warned.startswith("warning: ")
    assert "5.0 times the" in warned
    with pytest.raises(ConfigError, match=r"training.steps × .*10.5 times .* at most 10 times"):
        check_epochs(facts, int(10.5 * facts.train_tokens))


def test_bytes_per_token_are_those_of_the_decoded_text(tiny_corpus):
    facts = read_facts(tiny_corpus)
    _, val = read_tokens(tiny_corpus)
    tokenizer = Tokenizer.from_file(str(tiny_corpus / "tokenizer.json"))
    text = tokenizer.decode(all_tokens(val).tolist(), skip_special_tokens=True)
    assert bytes_per_token(tiny_corpus) == pytest.approx(len(text.encode()) / facts.val_tokens)


def test_bytes_of_characters_beyond_ascii_are_counted(tmp_path):
    text = "naïve café, Привет, 漢字 and 🙂. " * 400
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    settings = TextCorpus(kind="text", files=(str(tmp_path / "text.txt"),), vocab_size=280)
    facts = build("text", settings, tmp_path / "corpus")
    validated = bytes_per_token(tmp_path / "corpus") * facts.val_tokens
    # The text repeats one line, so any part of its tokens has that part of its bytes.
    expected = len(text.encode()) * facts.val_tokens / (facts.train_tokens + facts.val_tokens)
    assert validated == pytest.approx(expected, rel=0.01)
