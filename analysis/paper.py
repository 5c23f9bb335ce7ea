"""The paper's published numbers."""

from functools import cache
from pathlib import Path
from typing import Any

from experiments.yaml_loader import read_yaml


@cache
def load_paper() -> dict[str, Any]:
    """Return paper.yaml: val_loss, state_mib_per_device, training, models and claims."""
    paper = read_yaml(Path(__file__).parent / "paper.yaml")
    claims = {int(number): claim for number, claim in paper["claims"].items()}
    return paper | {"claims": claims}
