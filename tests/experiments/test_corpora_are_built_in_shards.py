"""A corpus is built in shards, resumes after an interruption, and is checked before training."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from experiments.corpus import build as corpus
from experiments.corpus.build import build
from experiments.corpus.facts import read_facts
from experiments.corpus.settings import HuggingFaceCorpus
from experiments.corpus.tokenizer import train_tokenizer
from experiments.corpus.tokens import read_tokens, verify
from experiments.settings import ConfigError
from tests.conftest import all_tokens

TEXTS = [f"Document {i} has {i * i} words of its own." for i in range(35)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(corpus, "SHARD_DOCUMENTS", 10)
    monkeypatch.setattr(corpus, "_DOCUMENTS_PER_BATCH", 4)


def dataset(folder, texts=TEXTS, **settings):
    """Write a dataset that the library `datasets` reads; return its settings."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return HuggingFaceCorpus(kind="huggingface", path=str(folder), vocab_size=300, **settings)


def word_tokenizer(path, words, size):
    """Write a tokenizer.json that gives `words` the last ids of a vocabulary of `size`."""
    vocabulary = {"<|endoftext|>": 0, "[UNK]": 1} | {f"filler{i}": i for i in range(2, size)}
    vocabulary = {word: i for word, i in vocabulary.items() if i < size - len(words)}
    vocabulary |= {word: size - len(words) + i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    return str(path)


def test_the_stream_is_every_document_in_order_whatever_the_shards(tmp_path):
    facts = build("mine", dataset(tmp_path / "data"), tmp_path / "corpus")
    assert [shard.documents for shard in facts.shards] == [10, 10, 10, 5]
    tokenizer = Tokenizer.from_file(str(tmp_path / "corpus" / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    expected = [token for text in TEXTS for token in [*tokenizer.encode(text).ids, end]]
    train, validation = read_tokens(tmp_path / "corpus")
    assert [*all_tokens(train), *all_tokens(validation)] == expected
    starts = np.arange(0, len(train) - 40, 7)  # some windows span two shards
    for start, window in zip(starts, train.windows(starts, 40), strict=True):
        assert window.tolist() == expected[start : start + 40]


def test_a_build_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    settings = dataset(tmp_path / "data")
    whole = build("mine", settings, tmp_path / "whole")
    write = corpus._write_shard

    def interrupted(tokenizer, end_of_text, texts, folder, number):
        if number == 2:
            raise KeyboardInterrupt
        return write(tokenizer, end_of_text, texts, folder, number)

    folder = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build("mine", settings, folder)
    assert not (folder / "meta.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert len(before) == 4  # two shards and their records
    assert build("mine", settings, folder) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_only_the_shard_of_an_edited_document_is_made_again(tmp_path):
    tokenizer = word_tokenizer(tmp_path / "words.json", ["Document", "has"], 200)
    folder = tmp_path / "corpus"
    build("mine", dataset(tmp_path / "data", tokenizer=tokenizer), folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.bin")}
    edited = [*TEXTS[:15], "Something else.", *TEXTS[16:]]
    build("mine", dataset(tmp_path / "data", edited, tokenizer=tokenizer), folder)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "shards").glob("*.bin")}
    assert {name for name in before if after[name] != before[name]} == {"00001.bin"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "00002.bin is damaged: it must be a file of"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "damaged: it must have the sha256"),
    ],
)
def test_damage_is_found_before_training_and_mended_by_building_again(tmp_path, damage, message):
    settings, folder = dataset(tmp_path / "data"), tmp_path / "corpus"
    facts = build("mine", settings, folder)
    assert verify(folder) == facts == read_facts(folder)
    shard = folder / "shards" / "00002.bin"
    whole = shard.read_bytes()
    shard.write_bytes(damage(whole))
    with pytest.raises(ConfigError, match=message):
        verify(folder)
    assert build("mine", settings, folder) == facts
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 100, b"[]", b'{"shards": [1]}', b'{"shards": [], "age": 3}']
)
def test_a_damaged_record_is_told_or_made_again(tmp_path, content):
    settings, folder = dataset(tmp_path / "data"), tmp_path / "corpus"
    facts = build("mine", settings, folder)
    tokens = {path.name: path.read_bytes() for path in (folder / "shards").glob("*.bin")}
    (folder / "meta.json").write_bytes(content)
    for read in (read_facts, read_tokens, verify):
        with pytest.raises(ConfigError, match=r"meta.json is damaged: delete it, and the same"):
            read(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(ConfigError, match=r"meta.json is missing: the same command makes it"):
        verify(folder)
    (folder / "shards" / "00001.json").write_bytes(content)
    (folder / "tokenizer.json").write_bytes(content)
    assert build("mine", settings, folder) == facts == verify(folder)
    assert {path.name: path.read_bytes() for path in (folder / "shards").glob("*.bin")} == tokens


def test_tokens_of_a_large_vocabulary_have_four_bytes(tmp_path):
    words = ["Document", "words", "own."]
    tokenizer = word_tokenizer(tmp_path / "large.json", words, 70_000)
    settings = dataset(tmp_path / "data", tokenizer=tokenizer).model_copy(
        update={"vocab_size": 70_000}
    )
    facts = build("mine", settings, tmp_path / "corpus")
    assert facts.dtype == "uint32"
    size = (tmp_path / "corpus" / "shards" / "00003.bin").stat().st_size
    assert size == 4 * facts.shards[3].tokens
    train, _ = read_tokens(tmp_path / "corpus")
    assert {69_997, 69_998, 69_999} <= set(all_tokens(train).tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab_size": 260},
            r"mine.vocab_size is 260, but the highest token of .* is 279",
        ),
        ({"end_of_text": "<eos>"}, r"mine.end_of_text is '<eos>', but it must be a token of"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, change, message):
    tokenizer = word_tokenizer(tmp_path / "words.json", ["Document"], 280)
    settings = dataset(tmp_path / "data", tokenizer=tokenizer).model_copy(update=change)
    with pytest.raises(ConfigError, match=message):
        build("mine", settings, tmp_path / "corpus")


def test_a_tokenizer_with_a_hole_in_its_vocabulary_needs_rows_up_to_its_highest_token(tmp_path):
    path = tmp_path / "holes.json"
    Tokenizer(models.WordLevel({"<|endoftext|>": 0, "[UNK]": 1, "has": 5000}, "[UNK]")).save(
        str(path)
    )
    settings = dataset(tmp_path / "data", tokenizer=str(path))
    with pytest.raises(ConfigError, match=r"vocab_size is 300, but the highest token .* is 5000"):
        build("mine", settings, tmp_path / "corpus")
    facts = build("mine", settings.model_copy(update={"vocab_size": 5001}), tmp_path / "corpus")
    assert facts.vocab_size == 5001


def bpe():
    return train_tokenizer(TEXTS, 300, "<|endoftext|>")


def unigram():
    letters = sorted({letter for text in TEXTS for letter in text})
    pieces = [("<|endoftext|>", 0.0), *((piece, -2.0) for piece in ["Doc", "ument", *letters])]
    return Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))


def pads(tokenizer):
    tokenizer.enable_padding(pad_id=0, pad_token="<|endoftext|>", length=64)


def truncates(tokenizer):
    tokenizer.enable_truncation(3)


def draws_lots(tokenizer):
    tokenizer.model.dropout = 0.5


@pytest.mark.parametrize(
    ("make", "change"), [(bpe, pads), (unigram, pads), (bpe, truncates), (bpe, draws_lots)]
)
def test_settings_inside_a_tokenizers_file_do_not_change_the_text(tmp_path, make, change):
    expected = [
        t for text in TEXTS for t in [*make().encode(text, add_special_tokens=False).ids, 0]
    ]
    tokenizer = make()
    change(tokenizer)
    tokenizer.save(str(tmp_path / "changed.json"))
    settings = dataset(tmp_path / "data", tokenizer=str(tmp_path / "changed.json"))
    for _ in range(2):  # the second build reuses the tokenizer that the first one saved
        build("mine", settings, tmp_path / "corpus")
        train, validation = read_tokens(tmp_path / "corpus")
        assert [*all_tokens(train), *all_tokens(validation)] == expected
        (tmp_path / "corpus" / "shards" / "00001.json").unlink()


def test_shards_of_another_tokenizer_are_made_again(tmp_path):
    settings, folder = dataset(tmp_path / "data"), tmp_path / "corpus"
    facts = build("mine", settings, folder)
    word_tokenizer(folder / "tokenizer.json", ["Document"], 280)
    again = build("mine", settings, folder)
    assert again.tokens_sha256 != facts.tokens_sha256
    assert again == build("mine", settings, folder)
    assert {shard.text_sha256 for shard in again.shards} == {
        shard.text_sha256 for shard in facts.shards
    }


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    settings = dataset(tmp_path / "data", tokenizer=str(tmp_path / "broken.json"))
    with pytest.raises(ConfigError, match=r"broken.json', which cannot be read"):
        build("mine", settings, tmp_path / "corpus")
