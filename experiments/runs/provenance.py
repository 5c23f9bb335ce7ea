"""Provenance of a result: commit, package versions and hardware."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("torch", "lightning", "transformers", "adam-mini", "lion-pytorch", "numpy")
_ROOT = Path(__file__).parents[2]


def provenance() -> dict[str, Any]:
    """Return the commit, the package versions and the hardware; no machine or user names.

    `commit` and `dirty` are None where the project is no git checkout of its own.
    """
    return {
        **_checkout(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _checkout() -> dict[str, str | bool | None]:
    """Return the commit that is checked out, and whether files differ from it.

    An archive that was unpacked inside another repository is not that repository's commit.
    """
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "HEAD") if top and os.path.samefile(top, _ROOT) else None
    # Named, because the user's configuration may hide untracked files.
    changes = _git("status", "--porcelain", "--untracked-files=normal") if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Return the output of git; None if this is not a checkout or git is not installed."""
    # GIT_DIR, GIT_WORK_TREE and their like, set in a hook, point to another repository.
    # GIT_CONFIG_* may declare this one to be safe.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith("GIT_CONFIG_")
    }
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, env=environment, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return os.fsdecode(done.stdout).removesuffix("\n")


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
