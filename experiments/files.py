"""Atomic writes, locks and JSON lines, safe against crashes, full disks and other processes."""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from experiments.settings import ConfigError


class FileError(ConfigError):
    """A file or folder that cannot be used: one sentence with its path, and how to mend it."""

    def __init__(self, problem: str) -> None:
        super().__init__((), problem)


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` if the block raises no error.

    The content is synced to disk before the rename, so neither a killed process nor a power cut
    leaves a partial file. The next writer in the folder removes the temporary files of killed
    processes. A temporary name keeps its suffix, from which pandas and matplotlib choose a format.

    Raises:
        FileError: the file cannot be written; `path` is unchanged.
    """
    path = Path(path)
    make_folder(path.parent)
    _remove_leftovers(path.parent)
    with _writing(path):
        temporary, file = _temporary_file(path)
        try:
            with file:
                yield temporary
                os.fsync(file.fileno())
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        FileError: a file has the name of a folder, or the folder cannot be made or written to.
    """
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise FileError(f"{path} must be a folder that this user may write to")


def check_folder(path: Path) -> None:
    """Check that nothing but a folder has the name of a folder or of one of its parents.

    Raises:
        FileError: one of them is a file or a broken link.
    """
    for part in (*reversed(path.parents), path):
        if os.path.lexists(part) and not part.is_dir():
            raise FileError(f"{part} is not a folder, but must be one: move it away")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the exclusive lock of a file; the system releases it if this process dies.

    Args:
        path: the file; made if missing.
        wait: whether to wait until no other process holds the lock.

    Yields:
        Whether the lock is held: True, unless another process has it and `wait` is False.

    Raises:
        FileError: the file cannot be opened, or its file system has no locks.
    """
    with _writing(path):
        file = path.open("w", encoding="utf-8")
    with file:
        is_held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = False
        except OSError as error:
            raise FileError(
                f"{path} cannot be locked: {error.strerror}; results must be on a file system on"
                " which flock works"
            ) from error
        yield is_held


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file; False if it cannot be opened."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append a line of JSON to a file, and sync it to disk.

    Raises:
        FileError: the file cannot be written.
    """
    line = json.dumps(value).encode() + b"\n"
    with _writing(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed process left a partial line
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, last: int = 0) -> list[dict[str, Any]]:
    """Return the JSON objects in a file of lines; none if it cannot be read.

    Other lines are skipped, such as a partial line after a crash.

    Args:
        path: the file.
        last: number of lines to read, from the end; 0 for all.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return []
    values = [_parsed(line) for line in content.splitlines()[-last:]]
    return [value for value in values if value is not None]


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if it cannot be read or is not an object."""
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole_parquet(path: Path) -> bool:
    """Return whether a file begins and ends like a parquet file; the rest is not read."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
            file.seek(-4, os.SEEK_END)
            return first == file.read(4) == b"PAR1"
    except OSError:  # missing, or shorter than the two magic numbers
        return False


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing is lost, and return its new path.

    Raises:
        FileError: the file cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with _writing(path):
        os.replace(path, aside)
    return aside


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a FileError that names the file."""
    try:
        yield
    except OSError as error:
        own = error.filename is None or Path(str(error.filename)).parent == path.parent
        if not own:  # the error is about another file, which was being read
            raise
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


def _temporary_file(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new file beside `path`, locked while open, so that no other writer removes it.

    Unlike a file of `tempfile`, it has the mode that the umask gives.
    """
    while True:
        temporary = path.with_name(f".{secrets.token_hex(4)}.partial{path.suffix}")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+b")
        with suppress(OSError):  # without locks, leftovers are not removed; they do no harm
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another writer removed it before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of dead processes; files of living processes are locked."""
    for path in folder.glob(".*.partial*"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, if the file system supports it."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text.strip(b"\0 \r\n").decode())  # a power cut may leave NULs
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
