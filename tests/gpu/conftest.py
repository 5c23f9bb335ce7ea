"""Tests that need a CUDA GPU; without one they are skipped."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    reason = None
    if not torch.cuda.is_available():
        reason = "there is no CUDA GPU"
    for item in items:
        if reason and "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device():
    return torch.device("cuda")
