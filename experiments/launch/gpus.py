"""Locks on the GPUs of this machine, so that each GPU trains one run. Imports no torch."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.files import locked


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--list-gpus"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    return [str(index) for index in range(done.stdout.count("\n"))] if not done.returncode else []


@contextmanager
def own_gpu() -> Iterator[str | None]:
    """Lock a GPU that no other run of this user trains on; wait until one is free.

    Yields:
        The GPU's name, or None if this machine has no GPU.
    """
    gpus = visible_gpus()
    while gpus:
        for gpu in gpus:
            with locked(_lock_of(gpu), wait=False) as is_ours:
                if is_ours:
                    yield gpu
                    return
        time.sleep(1)
    yield None


def _lock_of(gpu: str) -> Path:
    return Path(tempfile.gettempdir()) / f"powerstep-{os.getuid()}-gpu-{gpu}.lock"
