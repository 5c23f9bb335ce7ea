"""Imports Lightning in half the time, which every training process spends at its start."""

import sys
from types import ModuleType


def import_lightning() -> None:
    """Import Lightning without torchmetrics; call this before any module that uses Lightning.

    torchmetrics imports transformers, SciPy and matplotlib, but Lightning needs only the types of
    its metrics, to recognise metrics that are logged, and runs log none
    (https://github.com/Lightning-AI/pytorch-lightning/issues/19261). Later imports of torchmetrics
    get the real package.
    """
    if "torchmetrics" in sys.modules or "lightning.pytorch" in sys.modules:
        return
    types = ModuleType("torchmetrics")
    types.Metric = type("Metric", (), {})
    types.MetricCollection = type("MetricCollection", (), {})
    sys.modules["torchmetrics"] = types
    try:
        import lightning.pytorch  # noqa: F401
    finally:
        del sys.modules["torchmetrics"]
