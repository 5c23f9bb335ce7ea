"""Read the documents of a corpus, and fingerprint the files that they come from."""

import ast
import base64
import hashlib
import importlib.metadata
import importlib.util
import random
import warnings
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import islice
from pathlib import Path

from experiments.corpus.settings import (
    CorpusSettings,
    DocstringCorpus,
    HuggingFaceCorpus,
    TextCorpus,
)
from experiments.files import file_sha256
from experiments.settings import ConfigError

# Characters. Shorter docstrings are skipped: most only repeat the name of their function.
SHORTEST_DOCSTRING = 100
DOCUMENT_LENGTH = 100_000  # characters after which a long text file is split into documents


def fingerprint(name: str, settings: CorpusSettings) -> dict[str, str]:
    """Return a fingerprint of a corpus's sources, which changes when their content does.

    Files are identified by their sha256, so the same files in another place are the same corpus.
    The Hugging Face hub is not contacted: a dataset there is identified by its name and revision.

    Raises:
        ConfigError: a package is not installed, or a file is missing, empty or not UTF-8.
    """
    if isinstance(settings, DocstringCorpus):
        found = {"files": _docstring_content(name, settings)}
    elif isinstance(settings, TextCorpus):
        found = {"files": _sha256_of(_text_files(name, settings))}
    elif Path(settings.path).exists():
        found = {"files": _folder_content(Path(settings.path))}
    else:
        found = {settings.path: settings.revision or "latest"}
    if settings.tokenizer:
        found |= {"tokenizer": _tokenizer_content(name, settings.tokenizer)}
    return found


def documents(name: str, settings: CorpusSettings) -> Iterator[str]:
    """Yield the documents of a corpus, in the same order on every machine.

    Raises:
        ConfigError: the sources cannot be read, or contain something other than text.
    """
    if isinstance(settings, DocstringCorpus):
        yield from _docstrings(name, settings)
    elif isinstance(settings, TextCorpus):
        read = _text_files(name, settings)
        if missing := len(_paths(name, settings)) - len(read):
            print(
                f"{missing} of the files are left out: empty ones, and copies of others", flush=True
            )
        for path in read.values():
            yield from _pieces(path.read_text(encoding="utf-8-sig"))
    else:
        yield from _huggingface(name, settings)


def _docstrings(name: str, settings: DocstringCorpus) -> Iterator[str]:
    """Yield each distinct docstring once.

    They are shuffled, so that the validation text, at the end, resembles the training text.
    """
    found: dict[str, None] = {}
    for package in settings.packages:
        for file, path in _modules(name, package, settings).items():
            try:
                found |= dict.fromkeys(_docstrings_of(path))
            except (SyntaxError, UnicodeDecodeError) as error:
                raise ConfigError(
                    ("datasets", name, "packages"),
                    f"has {package!r}, of which {file} cannot be read ({error}): name it in"
                    " exclude",
                ) from None
    texts = list(found)
    random.Random(0).shuffle(texts)
    yield from texts


def _docstrings_of(path: Path) -> Iterator[str]:
    """Yield the docstrings in a Python file that are long enough."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        # Python 3.12 and later warn of invalid escapes such as "\\d" in the source:
        # https://docs.python.org/3/whatsnew/3.12.html
        warnings.simplefilter("ignore")
        module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text and len(text) >= SHORTEST_DOCSTRING:
            yield text


def _modules(name: str, package: str, settings: DocstringCorpus) -> dict[str, Path]:
    """Return the files of a package by package/path, in a fixed order, without its tests."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise ConfigError(
            ("datasets", name, "packages"),
            f"has {package!r}, but it must be an installed package",
        )
    root = Path(spec.origin).parent
    paths = sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts)
    files = {path.relative_to(root.parent).as_posix(): path for path in paths}
    return {
        file: path
        for file, path in files.items()
        if "tests" not in path.parts
        and not any(
            f"{file}/".startswith(f"{left_out.rstrip('/')}/") for left_out in settings.exclude
        )
    }


def _docstring_content(name: str, settings: DocstringCorpus) -> str:
    """Return a sha256 of the names and contents of all files that docstrings are taken from."""
    content = []
    for package in settings.packages:
        recorded = _recorded(package)
        for file, path in _modules(name, package, settings).items():
            sha256 = recorded.get((path, path.stat().st_size)) or file_sha256(path)
            content.append(f"{file} {sha256}")
    return _sha256_of(content)


def _recorded(package: str) -> dict[tuple[Path, int | None], str]:
    """Return the sha256 of a package's files from its RECORD, by file and size in bytes.

    Otherwise about a thousand files per package would be read each time a profile is read. RECORD
    stores hashes in URL-safe base64 without padding:
    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:  # its distribution has another name
        return {}
    return {
        (Path(file.locate()), file.size): base64.urlsafe_b64decode(f"{file.hash.value}=").hex()
        for file in files
        if file.hash and file.hash.mode == "sha256"
    }


def _folder_content(path: Path) -> str:
    """Return a sha256 of a file, or of the names and contents of all files in a folder.

    Hidden files and folders are ignored.
    """
    if path.is_file():
        return file_sha256(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    seen = [file for file in files if not any(part.startswith(".") for part in Path(file).parts)]
    return _sha256_of(f"{file} {file_sha256(files[file])}" for file in sorted(seen))


def _tokenizer_content(name: str, tokenizer: str) -> str:
    """Return the sha256 of a tokenizer.json, or the name of a tokenizer on the hub."""
    if not tokenizer.endswith(".json"):
        return tokenizer
    if not Path(tokenizer).is_file():
        raise ConfigError(
            ("datasets", name, "tokenizer"), f"is {tokenizer!r}, but no such file exists"
        )
    return file_sha256(Path(tokenizer))


def _pieces(text: str) -> Iterator[str]:
    """Split a text at line ends into pieces of at least DOCUMENT_LENGTH characters.

    Only the last piece may be shorter.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + DOCUMENT_LENGTH) + 1 or len(text)
        yield text[start:end]
        start = end


def _huggingface(name: str, settings: HuggingFaceCorpus) -> Iterator[str]:
    """Yield the text column of a Hugging Face dataset, row by row."""
    from datasets import load_dataset  # imported here because it takes seconds

    try:
        rows = load_dataset(
            settings.path,
            settings.name,
            split=settings.split,
            revision=settings.revision,
            streaming=settings.streaming,
        )
    # Many libraries raise here, for example without network or for an unknown name or revision.
    except Exception as error:
        raise ConfigError(
            ("datasets", name, "path"),
            f"is {settings.path!r}, which cannot be read: {' '.join(str(error).split())}",
        ) from error
    for number, row in enumerate(islice(rows, settings.max_documents)):
        if settings.text_field not in row:
            raise ConfigError(
                ("datasets", name, "text_field"),
                f"is {settings.text_field!r}, but it must be a column of text; the columns are"
                f" {', '.join(row)}",
            )
        text = row[settings.text_field]
        if not isinstance(text, str):
            raise ConfigError(
                ("datasets", name),
                f": row {number}, counted from 0, has no text in the column"
                f" {settings.text_field!r}, but {text!r}: each row must have text there",
            )
        yield text


def _paths(name: str, settings: TextCorpus) -> list[Path]:
    """Return the files that match the patterns, each once, sorted by path."""
    paths: set[str] = set()
    for pattern in settings.files:
        found = [path for path in glob(pattern, recursive=True) if Path(path).is_file()]
        if not found:
            raise ConfigError(
                ("datasets", name, "files"), f"has {pattern!r}, but no such file exists"
            )
        paths.update(found)
    return [Path(path) for path in sorted(paths)]


def _text_files(name: str, settings: TextCorpus) -> dict[str, Path]:
    """Return one file for each distinct content, by its sha256.

    Without this, a copy of a file could be in both the training and the validation text.

    Raises:
        ConfigError: a file is not UTF-8, or all files are empty.
    """
    found: dict[str, Path] = {}
    for path in _paths(name, settings):
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                ("datasets", name, "files"),
                f"has {str(path)!r}, which must be UTF-8 text but has an invalid byte at offset"
                f" {error.start}",
            ) from None
        if content:
            found.setdefault(hashlib.sha256(content).hexdigest(), path)
    if not found:
        raise ConfigError(
            ("datasets", name, "files"),
            f"has {str(path)!r}, which is empty: it must hold text",
        )
    return found


def _sha256_of(lines: Iterable[str]) -> str:
    """Return the sha256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
