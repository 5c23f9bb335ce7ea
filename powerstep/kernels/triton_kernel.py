"""A kernel for parameters on a CUDA device."""

import functools
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from powerstep.kernels.cache import cached
from powerstep.kernels.formula import Counts, Formulas, Kernel, Tensors, Variant, chunks
from powerstep.kernels.triton_source import chunk_size, triton_source

# Options of Triton. Fused multiply-adds would round otherwise than torch's operations.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
_ALIGNMENT = 16  # bytes; allocators align to more, but a view may begin anywhere


class TritonKernel(Kernel):
    """A kernel for parameters on a CUDA device; it never waits for the device.

    A CUDA graph can record its steps. A hyperparameter that is a tensor on the device is read there
    at each replay; all others keep their values.

    Raises:
        ImportError: Triton is not installed.
    """

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._function = _imported(triton_source(variant)).step
        self._recorded: list[object] = []  # tensors that the replays of CUDA graphs read

    def _launch(self, tensors: Tensors, counts: Counts, formulas: Formulas) -> None:
        device = tensors[0][0].device
        numels = tuple([own[0].numel() for own in tensors])
        first, parameter = chunks(numels, chunk_size(self._variant), device)
        addresses = tuple([tuple([each.data_ptr() for each in own]) for own in tensors])
        arguments = (
            first,
            parameter,
            self._kept_on_device(numels, device),
            self._kept_on_device(addresses, device),
            self._numbers(counts, formulas, device),
        )
        if _is_recording(device):
            self._recorded += arguments
        # Triton launches on the current device, which need not be the parameters'.
        with torch.cuda.device(device if device.type == "cuda" else -1):
            self._function[(len(first),)](
                *arguments,
                formulas[counts[0]].exponent,
                int(torch.randint(2**31, ())) if self._variant.stochastic else 0,
                ALIGNED=not any(x % _ALIGNMENT for row in (numels, *addresses) for x in row),
                **OPTIONS,
            )

    def _numbers(self, counts: Counts, formulas: Formulas, device: torch.device) -> Tensor:
        """Return the hyperparameters, fp32, a row for each parameter."""
        read = {
            name: column
            for column, (name, value) in enumerate(formulas[counts[0]].numbers.items())
            if isinstance(value, Tensor) and value.device == device and device.type != "cpu"
        }
        constants = {
            count: [0.0 if name in read else float(value) for name, value in own.numbers.items()]
            for count, own in formulas.items()
        }
        rows = [constants[count] for count in counts]
        numbers, host = _sent(rows, torch.float32, device)
        if _is_recording(device):
            self._recorded.append(host)
        if read:
            numbers = numbers.clone()
            for name, column in read.items():
                values = [formulas[count].numbers[name] for count in counts]
                numbers[:, column] = torch.stack(values)
        return numbers

    def _kept_on_device(self, values: tuple[Any, ...], device: torch.device) -> Tensor:
        """Return integers, int64, as a tensor that is kept for later steps with the same values."""
        if not _is_recording(device):
            return _sent_once(values, device)
        # A graph copies from the memory of the host at each replay, and not before.
        tensor, host = _sent(values, torch.int64, device)
        self._recorded.append(host)
        return tensor


def _is_recording(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@functools.lru_cache(maxsize=64)
def _sent_once(values: tuple[Any, ...], device: torch.device) -> Tensor:
    return _sent(values, torch.int64, device)[0]


def _sent(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a tensor on the device, sent without waiting, and the one that it is copied from."""
    host = torch.tensor(values, dtype=dtype)
    host = host.pin_memory() if device.type == "cuda" else host
    return host.to(device, non_blocking=True), host


def _imported(source: str) -> ModuleType:
    """Import source from a file, which Triton needs to read it."""
    path = cached([source], ".py", partial(Path.write_text, data=source, encoding="utf-8"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
