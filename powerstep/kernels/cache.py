"""The folder of generated kernels, which later processes use again."""

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
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


def name_of(*contents: str) -> str:
    """Return a file name, without suffix, that depends on contents."""
    return "kernel_" + hashlib.sha256("\0".join(contents).encode()).hexdigest()[:24]
