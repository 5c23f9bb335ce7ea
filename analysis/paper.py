"""Numbers published in the paper, arXiv:2605.10335."""

from functools import cache
from pathlib import Path
from typing import Any

from experiments.yaml_loader import read_yaml


@cache
def load_paper() -> dict[str, Any]:
    """Return the content of paper.yaml, the claims by their numbers as int."""
    paper = read_yaml(Path(__file__).parent / "paper.yaml")
    claims = {int(number): claim for number, claim in paper["claims"].items()}
    return paper | {"claims": claims}
