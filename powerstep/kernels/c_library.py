"""Compiles C source with the system's compiler, and keeps the result in the user's cache."""

import ctypes
import functools
import logging
import os
import platform
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

from powerstep.kernels.cache import cached

_FLAGS = ["-O3", "-std=gnu11", "-shared", "-fPIC"]
# Contraction would make the last bit depend on the compiler, and on the place in a vector.
_FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"]
# The first of these that the compiler accepts: Apple's has no OpenMP, and some no -march=native.
_ALTERNATIVES = (
    ["-march=native", "-fopenmp"],
    ["-mcpu=native", "-fopenmp"],
    ["-march=native"],
    [],
)

_log = logging.getLogger("powerstep")


class CompilerError(Exception):
    """There is no C compiler, or it failed."""


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """Compile C source to a shared library, and load it.

    The library is kept in `cache_folder`, under a name that depends on the source, the compiler and
    the processor.

    Raises:
        CompilerError: there is no C compiler, or it failed.
        OSError: the library cannot be written or loaded.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    contents = [source, *_FLAGS, _identity(compiler), _processor()]
    return ctypes.CDLL(str(cached(contents, ".so", partial(_compile, compiler, source))))


def _compile(compiler: list[str], source: str, path: Path) -> None:
    _log.warning("powerstep: compiling a kernel, once on this machine")
    for flags in _ALTERNATIVES:
        command = [*compiler, *_FLAGS, *flags, "-x", "c", "-", "-o", str(path), "-lm"]
        done = subprocess.run(command, input=source, capture_output=True, encoding="utf-8")
        if done.returncode == 0:
            return
    raise CompilerError(done.stderr.strip() or f"{compiler[0]}: exit code {done.returncode}")


def _identity(compiler: list[str]) -> str:
    """Return a text that differs between compilers and their versions."""
    path = shutil.which(compiler[0])
    if path is None:
        raise CompilerError(f"there is no C compiler: {compiler[0]} is not on PATH")
    real = os.path.realpath(path)
    return shlex.join([real, str(os.stat(real).st_mtime_ns), *compiler[1:]])


def _processor() -> str:
    """Return a text that differs between processors with different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *sorted({x for x in lines if x.startswith(kinds)})])
