"""The datasets that datasets.yaml may describe."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from experiments.settings import Items, Settings, Unique, digest

_Package = Annotated[str, Field(pattern=r"^\w+$")]


class _Corpus(Settings):
    # Fields that say where text and tokenizer lie. The content found there identifies a corpus
    # (experiments.corpus.sources.fingerprint), so that moving it trains nothing anew.
    places: ClassVar[frozenset[str]] = frozenset({"tokenizer"})

    tokenizer: str | None = Field(
        default=None,
        description="name on the Hugging Face hub, or path of a tokenizer.json; none for a"
        " byte-level BPE that is trained on the text",
    )
    vocab_size: int = Field(
        default=4096,
        gt=256,
        description="size of the BPE that is trained; of another tokenizer, the most it may have",
    )
    end_of_text: str = Field(
        default="<|endoftext|>", description="token behind each document; the tokenizer has it"
    )
    validation_fraction: float = Field(
        default=0.05, gt=0, lt=1, description="share of the tokens, at the end, kept for validation"
    )


class DocstringCorpus(_Corpus):
    """The docstrings of installed Python packages: real text that needs no network."""

    places = _Corpus.places | {"packages", "exclude", "sha256"}

    kind: Literal["docstrings"]
    packages: Unique[_Package] = Field(min_length=1, description="importable package names")
    exclude: Unique[str] = Field(
        default=(), description="files and folders to leave out, as package/path"
    )
    sha256: str | None = Field(
        default=None, description="of the text it should be; the report tells where it is not"
    )


class TextCorpus(_Corpus):
    """Text files of the user's, in UTF-8."""

    places = _Corpus.places | {"files"}

    kind: Literal["text"]
    files: Items[str] = Field(min_length=1, description="paths or glob patterns")


class HuggingFaceCorpus(_Corpus):
    """A dataset of the Hugging Face hub, or of a local folder, through `datasets`."""

    places = _Corpus.places | {"path", "revision"}

    kind: Literal["huggingface"]
    path: str = Field(description="name on the hub, or a local folder")
    name: str | None = Field(default=None, description="configuration of the dataset")
    revision: str | None = Field(
        default=None,
        description="commit or tag on the hub; none for the latest when the corpus is built",
    )
    split: str = Field(default="train", description="split to read")
    text_field: str = Field(default="text", description="column that holds the text")
    streaming: bool = Field(default=False, description="read without downloading it whole first")
    max_documents: int | None = Field(default=None, gt=0, description="read no more than this")


CorpusSettings = Annotated[
    DocstringCorpus | TextCorpus | HuggingFaceCorpus, Field(discriminator="kind")
]


class Corpus(Settings):
    """A dataset's settings with the fingerprint of its sources."""

    name: str
    settings: CorpusSettings
    sources: dict[str, str] = Field(description="what was found where the settings say")

    @property
    def identity(self) -> dict[str, Any]:
        """What its tokens depend on, as plain values; not where the sources lie."""
        return self.model_dump(mode="json", exclude={"settings": self.settings.places})

    @property
    def path(self) -> str:
        """Folder of the tokens, below `results/corpora/`."""
        return f"{self.name}_{digest(self.identity)}"
