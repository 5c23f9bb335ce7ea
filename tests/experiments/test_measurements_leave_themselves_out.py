"""The metrics' own copy of the parameters is not part of the memory that is reported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from experiments.training.measuring.step import ParameterCopy, PeakMemory

SHAPES = [(3, 5), (7,), (), (0, 4), (2, 3, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_change_of_parameters_is_that_of_numpy(dtype):
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    before = [param.detach().float().numpy().copy() for param in params]
    copy = ParameterCopy(params, PeakMemory())
    with torch.no_grad():
        for param in params:
            param += 0.1 * torch.randn(param.shape)
    after = [param.detach().float().numpy() for param in params]
    changes = np.concatenate([(b - a).ravel() for a, b in zip(before, after, strict=True)])
    rms = np.sqrt(np.mean(np.square(changes.astype(np.float64))))
    assert copy.rms_change() == pytest.approx(rms, rel=1e-6)


def test_parameters_that_are_no_whole_memory_are_copied_as_they_look():
    whole = torch.arange(12.0).reshape(3, 4)
    copy = ParameterCopy([whole.t(), whole[:, 1]], PeakMemory())
    whole += 2
    assert copy.rms_change() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the copy is in a temporary file")
def test_a_copy_in_ram_is_not_in_the_peak():
    """In a process of its own: a peak never falls again."""
    program = """
import torch
from experiments.training.measuring.step import ParameterCopy, PeakMemory
params = [torch.ones(1000, 1000) for _ in range(100)]  # 400 MB
peak = PeakMemory()
before = peak.update()
copy = ParameterCopy(params, peak)
assert copy.rms_change() == 0
print(peak.update() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50e6  # one tensor at a time, and what the allocator keeps of it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_on_a_gpu_is_not_in_the_peak():
    params = [torch.ones(1000, 1000, device="cuda") for _ in range(100)]
    peak = PeakMemory()
    before = peak.update()
    copy = ParameterCopy(params, peak)
    temporary = torch.ones(10_000_000, device="cuda")  # 40 MB, used while the copy is there
    assert copy.rms_change() == 0
    del temporary
    assert peak.update() - before == pytest.approx(40e6, abs=2**22)  # the allocator rounds
