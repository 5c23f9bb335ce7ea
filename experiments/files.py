"""Reading and writing files that a crash, a full disk or another process may interrupt."""

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
    """Yield a temporary path beside `path`; move it there when the block ends without an error.

    The content is on disk before it gets its name, so that neither a killed process nor a power
    cut leaves half a file. Temporary files of killed processes are removed by the next writer in
    the folder. The temporary name keeps the suffix, by which pandas and matplotlib choose a format.

    Raises:
        FileError: the file cannot be written; what stood at `path` is as it was.
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
    """Make a folder and those above it.

    Raises:
        FileError: something else has its name, or it may not be made or written to.
    """
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise FileError(f"{path} must be a folder that this user may write to")


def check_folder(path: Path) -> None:
    """Refuse a folder whose name, or that of one above it, something else has.

    Raises:
        FileError: it is a file, or a link to nothing.
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
    """Tell whether another process holds the lock of a file; False if it cannot be opened."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add a line of JSON to a file, on disk when this returns.

    Raises:
        FileError: it cannot be written.
    """
    line = json.dumps(value).encode() + b"\n"
    with _writing(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # half a line, left by a killed process
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, last: int = 0) -> list[dict[str, Any]]:
    """Return the JSON objects in a file of lines; none where it cannot be read.

    What is not an object is left out: half a line of a killed process, or what a power cut left.

    Args:
        path: the file.
        last: only its last so many lines are read; all of them where it is 0.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return []
    values = [_parsed(line) for line in content.splitlines()[-last:]]
    return [value for value in values if value is not None]


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where it cannot be read or holds something else."""
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole_parquet(path: Path) -> bool:
    """Tell whether a file begins and ends as parquet does; its content is not read."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
            file.seek(-4, os.SEEK_END)
            return first == file.read(4) == b"PAR1"
    except OSError:  # it is missing or shorter
        return False


def set_aside(path: Path) -> Path:
    """Rename a damaged file, which loses nothing; return its new path.

    Raises:
        FileError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    with _writing(path):
        os.replace(path, aside)
    return aside


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's error into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        own = error.filename is None or Path(str(error.filename)).parent == path.parent
        if not own:  # it is of another file, which was being read
            raise
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error


def _temporary_file(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new file beside `path`, locked for as long as it is open, so that none removes it.

    Its mode is that of any new file (the umask applies), unlike that of `tempfile`.
    """
    while True:
        temporary = path.with_name(f".{secrets.token_hex(4)}.partial{path.suffix}")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "r+b")
        with suppress(OSError):  # without locks leftovers stay, which disturb nothing
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another writer took it for a leftover before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that died; those of living ones are locked."""
    for path in folder.glob(".*.partial*"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Have a folder's names on disk, where the file system can do that."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text.strip(b"\0 \r\n").decode())  # NULs: of a power cut
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
