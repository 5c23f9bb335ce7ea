"""The files of the benchmarks: tables, and the provenance of their numbers."""

import importlib.metadata
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import torch

from experiments.files import atomic
from experiments.runs.provenance import provenance

# Packages of the extras `field` and `field-gpu` in pyproject.toml.
EXTRAS = ("bitsandbytes", "flashoptim", "torchao", "triton")
_DRIVER = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]


def write_provenance(path: Path, command: list[str]) -> None:
    """Write commit, versions, machine, threads and command as JSON, and print them."""
    source = provenance() | {"cuda": torch.version.cuda, "driver": _driver()}
    source |= {"threads": torch.get_num_threads(), "command": shlex.join(command)}
    source["packages"] |= _extra_versions()
    text = json.dumps(source, indent=1)
    with atomic(path) as file:
        file.write_text(text + "\n", encoding="utf-8")
    print(text)


def write_table(table: pd.DataFrame, target: Path) -> None:
    """Write a table as CSV and Markdown, and print it.

    Args:
        table: its first column is the name of a row.
        target: path of the files, without suffix.
    """
    with atomic(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False)
    shown = table.astype(object).where(table.notna(), None)  # to_markdown prints NaN, not None
    is_missing = table.iloc[:, 1:].isna().all(axis=1)
    shown[table.columns[0]] += is_missing.map({True: " (not available)", False: ""})
    text = shown.to_markdown(index=False, floatfmt=".3f", intfmt=",", missingval="")
    with atomic(target.with_suffix(".md")) as path:
        path.write_text(text + "\n", encoding="utf-8")
    print(text, end="\n\n")


def _driver() -> str | None:
    """Return the version of the GPU's driver; None if there is none, or no nvidia-smi."""
    if not (torch.cuda.is_available() and shutil.which(_DRIVER[0])):
        return None
    return subprocess.run(_DRIVER, capture_output=True, encoding="utf-8").stdout.split("\n")[0]


def _extra_versions() -> dict[str, str | None]:
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    return {name: installed.get(name) for name in EXTRAS}
