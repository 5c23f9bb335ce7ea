"""Settings of a dataset: the entries of datasets.yaml."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from experiments.settings import Items, Settings, Unique, digest

_Package = Annotated[str, Field(pattern=r"^\w+$")]


class _Corpus(Settings):
    # Fields that give the location of the text and of the tokenizer. A corpus is identified by the
    # content at these locations and not by the locations themselves, so moving files does not cause
    # runs to be trained again (see experiments.corpus.sources.fingerprint).
    places: ClassVar[frozenset[str]] = frozenset({"tokenizer"})

    tokenizer: str | None = Field(
        default=None,
        description="name on the Hugging Face hub, or path of a tokenizer.json; by default a"
        " byte-level BPE is trained on the text",
    )
    vocab_size: int = Field(
        default=4096,
        gt=256,
        description="number of tokens of the trained BPE; for a given tokenizer, the upper bound",
    )
    end_of_text: str = Field(
        default="<|endoftext|>",
        description="token after each document; a given tokenizer must know it",
    )
    validation_fraction: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="fraction of the tokens, at the end, used for validation",
    )


class DocstringCorpus(_Corpus):
    """Docstrings of installed Python packages: real text that needs no download."""

    places = _Corpus.places | {"packages", "exclude", "sha256"}

    kind: Literal["docstrings"]
    packages: Unique[_Package] = Field(min_length=1, description="importable package names")
    exclude: Unique[str] = Field(
        default=(), description="files and folders to skip, as package/path"
    )
    sha256: str | None = Field(
        default=None, description="expected sha256 of the text; the report says if it differs"
    )


class TextCorpus(_Corpus):
    """The user's own text files, in UTF-8."""

    places = _Corpus.places | {"files"}

    kind: Literal["text"]
    files: Items[str] = Field(min_length=1, description="paths or glob patterns of files")


class HuggingFaceCorpus(_Corpus):
    """A dataset on the Hugging Face hub or in a local folder, read with the library `datasets`."""

    places = _Corpus.places | {"path", "revision"}

    kind: Literal["huggingface"]
    path: str = Field(description="name on the hub, or a local folder")
    name: str | None = Field(default=None, description="configuration of the dataset")
    revision: str | None = Field(
        default=None,
        description="commit or tag on the hub; by default the latest when the corpus is built",
    )
    split: str = Field(default="train", description="split to read")
    text_field: str = Field(default="text", description="column that holds the text")
    streaming: bool = Field(
        default=False, description="read while downloading, without a local copy"
    )
    max_documents: int | None = Field(
        default=None, gt=0, description="number of documents to read; by default all"
    )


CorpusSettings = Annotated[
    DocstringCorpus | TextCorpus | HuggingFaceCorpus, Field(discriminator="kind")
]


class Corpus(Settings):
    """A dataset's settings, with a fingerprint of its text and tokenizer."""

    name: str
    settings: CorpusSettings
    sources: dict[str, str] = Field(description="fingerprint of the text and of the tokenizer")

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the tokens depend on, as plain values; without the locations of files."""
        return self.model_dump(mode="json", exclude={"settings": self.settings.places})

    @property
    def path(self) -> str:
        """Folder of the corpus, relative to `results/corpora/`."""
        return f"{self.name}_{digest(self.identity)}"
