"""A kernel for parameters on the CPU."""

import ctypes
import functools
from array import array

import torch

from powerstep.kernels.c_library import library
from powerstep.kernels.c_source import c_source, chunk_size
from powerstep.kernels.formula import Counts, Formulas, Kernel, Tensors, Variant, chunks
from powerstep.kernels.power import power_coefficients

_THREADS_FROM = 2**15  # elements; to start the threads takes as long as to update a few thousand


class CKernel(Kernel):
    """A kernel for parameters on the CPU.

    Raises:
        CompilerError: there is no C compiler, or it failed.
        OSError: the library cannot be written or loaded.
    """

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._function = library(c_source(variant)).step
        pointers = [ctypes.c_void_p] * 6
        self._function.argtypes = [ctypes.c_int64, *pointers, ctypes.c_uint32, ctypes.c_int]
        self._function.restype = None

    def _launch(self, tensors: Tensors, counts: Counts, formulas: Formulas) -> None:
        numels = tuple([own[0].numel() for own in tensors])
        first, parameter = chunks(numels, chunk_size(self._variant))
        numbers = {count: [*map(float, own.numbers.values())] for count, own in formulas.items()}
        # array is many times as fast as torch.tensor here.
        tables = (
            array("q", numels),
            array("q", [each.data_ptr() for own in tensors for each in own]),
            array("f", [number for count in counts for number in numbers[count]]),
            _coefficients(formulas[counts[0]].exponent),
        )
        seed = int(torch.randint(2**32, ())) if self._variant.stochastic else 0
        threads = 1 if sum(numels) < _THREADS_FROM else min(torch.get_num_threads(), len(first))
        pointers = [first.data_ptr(), parameter.data_ptr(), *[t.buffer_info()[0] for t in tables]]
        self._function(len(first), *pointers, seed, threads)


@functools.cache
def _coefficients(exponent: float) -> array:
    """Return `power_coefficients` in fp32; of any exponent if the formula takes no power."""
    return array("f", power_coefficients(exponent if 0 < exponent < 1 else 0.5))
