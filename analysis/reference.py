"""The paper's published numbers."""

from functools import cache
from pathlib import Path
from typing import Any

from experiments.yaml_loader import read_yaml


@cache
def load_reference() -> dict[str, Any]:
    """Return reference.yaml: val_loss, state_mib_per_device, training, models and claims."""
    reference = read_yaml(Path(__file__).parent / "reference.yaml")
    claims = {int(number): claim for number, claim in reference["claims"].items()}
    return reference | {"claims": claims}
