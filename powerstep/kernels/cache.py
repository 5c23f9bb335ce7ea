"""The folder of generated kernels, which later processes use again."""

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


@functools.cache
def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/powerstep, by default ~/.cache/powerstep.

    If it is not writable, it is a folder that is deleted when this process ends.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "powerstep"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # no home
        pass
    temporary = tempfile.mkdtemp(prefix="powerstep-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def cached(contents: Sequence[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """Return a file of the cache that depends on contents, and make it if it is missing.

    Args:
        contents: everything that the file depends on.
        suffix: suffix of its name.
        make: writes the file to a path. It is renamed then: other processes may want it too.
    """
    digest = hashlib.sha256("\0".join(contents).encode()).hexdigest()[:24]
    path = cache_folder() / f"kernel_{digest}{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            make(made)
            made.replace(path)
    return path
