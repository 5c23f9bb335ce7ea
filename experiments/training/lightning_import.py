"""Imports Lightning quickly, because every training process waits for it at its start."""

import sys
from contextlib import suppress
from types import ModuleType


def import_lightning() -> None:
    """Import Lightning without torchmetrics; call this before any module that uses Lightning.

    torchmetrics imports transformers, SciPy and matplotlib, which takes half of the time. Lightning
    needs only two of its types, to recognise metrics that are logged, and runs log none
    (https://github.com/Lightning-AI/pytorch-lightning/issues/19261). Later imports of torchmetrics
    get the real package.
    """
    if "torchmetrics" in sys.modules or "lightning.pytorch" in sys.modules:
        return
    types = ModuleType("torchmetrics")
    types.Metric = type("Metric", (), {})
    types.MetricCollection = type("MetricCollection", (), {})
    sys.modules["torchmetrics"] = types
    # A version of Lightning that needs more of torchmetrics is imported later, with the real one.
    with suppress(AttributeError, ImportError):
        import lightning.pytorch  # noqa: F401
    del sys.modules["torchmetrics"]
