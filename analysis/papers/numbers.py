"""Numbers published in the paper, arXiv:2605.10335."""

from functools import cache
from pathlib import Path
from typing import Any

from experiments.yaml_loader import read_yaml


@cache
def load_paper() -> dict[str, Any]:
    """Return the content of analysis/papers/powerstep/numbers.yaml."""
    return read_yaml(Path(__file__).parent / "powerstep" / "numbers.yaml")
