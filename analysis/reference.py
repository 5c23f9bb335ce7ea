"""The paper's published numbers."""

from pathlib import Path
from typing import Any

import yaml


def load_reference() -> dict[str, Any]:
    """Return `val_loss` by model and optimizer, and `state_bytes_per_parameter` by optimizer."""
    return yaml.safe_load((Path(__file__).parent / "reference.yaml").read_text())
