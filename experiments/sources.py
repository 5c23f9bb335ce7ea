"""Where the text of a corpus comes from: its documents, and a fingerprint of what they are."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import random
from collections.abc import Iterator
from glob import glob
from itertools import islice
from pathlib import Path

from experiments.corpus_settings import (
    CorpusSettings,
    DocstringCorpus,
    HuggingFaceCorpus,
    TextCorpus,
)
from experiments.settings import ConfigError

SHORTEST_DOCSTRING = 100  # characters; below it stand one-liners that repeat the function's name
DOCUMENT_LENGTH = 100_000  # characters at which a long text file is cut


def fingerprint(name: str, settings: CorpusSettings) -> dict[str, str]:
    """Return what tells one state of a corpus's sources from another.

    That is the version of each package, the sha256 of each text file, for a dataset of `datasets`
    the revision its settings name, and the sha256 of a tokenizer's file.

    Raises:
        ConfigError: a package is not installed, or a file is missing, empty or not UTF-8.
    """
    if isinstance(settings, DocstringCorpus):
        found = {package: _version(name, package) for package in settings.packages}
    elif isinstance(settings, TextCorpus):
        found = {path: _file_sha256(name, path) for path in _files(name, settings)}
    else:
        found = {settings.path: settings.revision or "latest"}
    if settings.tokenizer and settings.tokenizer.endswith(".json"):
        if not Path(settings.tokenizer).is_file():
            raise ConfigError(
                f"datasets.{name}.tokenizer is {settings.tokenizer!r}, but no such file exists"
            )
        found |= {settings.tokenizer: _file_sha256(name, settings.tokenizer)}
    return found


def documents(name: str, settings: CorpusSettings) -> Iterator[str]:
    """Yield the documents of a corpus in an order that is the same everywhere."""
    if isinstance(settings, DocstringCorpus):
        yield from _docstrings(settings)
    elif isinstance(settings, TextCorpus):
        for path in _files(name, settings):
            yield from _pieces(Path(path).read_text(encoding="utf-8"))
    else:
        yield from _huggingface(name, settings)


def _docstrings(settings: DocstringCorpus) -> Iterator[str]:
    """Yield each docstring once, shuffled so that the end of the corpus is like its beginning."""
    found: dict[str, None] = {}
    for package in settings.packages:
        root = Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
            if "tests" not in path.parts:
                found |= dict.fromkeys(_docstrings_of(path))
    texts = list(found)
    random.Random(0).shuffle(texts)
    yield from texts


def _docstrings_of(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text and len(text) >= SHORTEST_DOCSTRING:
            yield text


def _pieces(text: str) -> Iterator[str]:
    """Cut a text at ends of lines into pieces of about DOCUMENT_LENGTH characters."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + DOCUMENT_LENGTH) + 1 or len(text)
        yield text[start:end]
        start = end


def _huggingface(name: str, settings: HuggingFaceCorpus) -> Iterator[str]:
    from datasets import load_dataset  # takes seconds to import, and only this kind needs it

    try:
        rows = load_dataset(
            settings.path,
            settings.name,
            split=settings.split,
            revision=settings.revision,
            streaming=settings.streaming,
        )
    except Exception as error:  # of many libraries: no network, no such name, split or revision
        raise ConfigError(
            f"datasets.{name}.path is {settings.path!r}, which cannot be read:"
            f" {' '.join(str(error).split())}"
        ) from error
    for row in islice(rows, settings.max_documents):
        if not isinstance(row.get(settings.text_field), str):
            raise ConfigError(
                f"datasets.{name}.text_field is {settings.text_field!r}, but it must be a column"
                f" of text; the columns are {', '.join(row)}"
            )
        yield row[settings.text_field]


def _version(name: str, package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"datasets.{name}.packages has {package!r}, but it must be an installed package"
        ) from None


def _files(name: str, settings: TextCorpus) -> list[str]:
    paths = sorted(
        path
        for pattern in settings.files
        for path in glob(pattern, recursive=True)
        if Path(path).is_file()
    )
    if not paths:
        raise ConfigError(
            f"datasets.{name}.files is {', '.join(settings.files)}, but no such file exists"
        )
    return paths


def _file_sha256(name: str, path: str) -> str:
    content = Path(path).read_bytes()
    if not content:
        raise ConfigError(f"datasets.{name}.files has {path!r}, which is empty: it must hold text")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"datasets.{name}.files has {path!r}, which must be UTF-8 text but has an invalid byte"
            f" at offset {error.start}"
        ) from None
    return hashlib.sha256(content).hexdigest()
