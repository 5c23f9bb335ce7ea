"""Where the text of a corpus comes from: its documents, and a fingerprint of what they are."""

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

SHORTEST_DOCSTRING = 100  # characters; below it stand one-liners that repeat the function's name
DOCUMENT_LENGTH = 100_000  # characters at which a long text file is cut


def fingerprint(name: str, settings: CorpusSettings) -> dict[str, str]:
    """Return what tells one state of a corpus's sources from another: content, not places.

    Files are identified by their sha256, so that the same files elsewhere are the same corpus. A
    name on the Hugging Face hub, which is not asked, stands for itself, with its revision.

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
    """Yield the documents of a corpus in an order that is the same everywhere.

    Raises:
        ConfigError: the sources cannot be read, or hold something that is no text.
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
    """Yield each docstring once, shuffled so that the end of the corpus is like its beginning."""
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
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings; newer Pythons show them
        module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        if text and len(text) >= SHORTEST_DOCSTRING:
            yield text


def _modules(name: str, package: str, settings: DocstringCorpus) -> dict[str, Path]:
    """Return the modules of a package but for its tests, as package/path, in a fixed order."""
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
    content = []
    for package in settings.packages:
        recorded = _recorded(package)
        for file, path in _modules(name, package, settings).items():
            sha256 = recorded.get((path, path.stat().st_size)) or file_sha256(path)
            content.append(f"{file} {sha256}")
    return _sha256_of(content)


def _recorded(package: str) -> dict[tuple[Path, int | None], str]:
    """Return the sha256 that the installer of a package recorded, by file and size.

    This saves reading a thousand files a package each time a profile is read.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:  # named otherwise than what is imported
        return {}
    return {
        (Path(file.locate()), file.size): base64.urlsafe_b64decode(f"{file.hash.value}=").hex()
        for file in files
        if file.hash and file.hash.mode == "sha256"
    }


def _folder_content(path: Path) -> str:
    """Return a sha256 of the names and contents of a folder's files, or of a single file."""
    if path.is_file():
        return file_sha256(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    seen = [file for file in files if not any(part.startswith(".") for part in Path(file).parts)]
    return _sha256_of(f"{file} {file_sha256(files[file])}" for file in sorted(seen))


def _tokenizer_content(name: str, tokenizer: str) -> str:
    if not tokenizer.endswith(".json"):
        return tokenizer
    if not Path(tokenizer).is_file():
        raise ConfigError(
            ("datasets", name, "tokenizer"), f"is {tokenizer!r}, but no such file exists"
        )
    return file_sha256(Path(tokenizer))


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
    """Return the files of all patterns in the order of their paths."""
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
    """Return each distinct text once, by its sha256: patterns may overlap, files may be copies.

    A text that is read twice would be trained on and validated on.
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
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
