"""A training process imports Lightning without the packages that it does not use."""

import os
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


def test_a_lightning_that_needs_more_of_torchmetrics_gets_it(tmp_path):
    package = tmp_path / "lightning" / "pytorch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from torchmetrics import MeanMetric, Metric\n")
    (package.parent / "__init__.py").touch()
    start = (
        "from experiments.training.lightning_import import import_lightning\n"
        "import_lightning()\n"
        "from lightning.pytorch import MeanMetric\n"
        "print(MeanMetric.__module__)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", start],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["torchmetrics.aggregation"]
