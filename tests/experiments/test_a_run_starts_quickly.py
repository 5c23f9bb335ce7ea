"""A training process imports Lightning without the packages that it does not use."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
START = """
import sys
from experiments.training.lightning_import import import_lightning
import_lightning()
from experiments.training.train import train
print(*sorted({"transformers", "scipy", "matplotlib", "torchmetrics"} & sys.modules.keys()))
import torchmetrics
print(torchmetrics.MeanMetric.__module__)
"""


def test_packages_of_metrics_are_not_imported_with_lightning():
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["", "torchmetrics.aggregation"]
