"""The paper's published numbers."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.yaml_loader import StrictLoader


@cache
def load_reference() -> dict[str, Any]:
    """Return reference.yaml: val_loss, state_mib_per_device, training, models and claims."""
    text = (Path(__file__).parent / "reference.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=StrictLoader)
