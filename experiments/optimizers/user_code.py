"""Errors of classes that users name in their settings, told in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from traceback import walk_tb

from experiments.optimizers.source_code import is_installed
from experiments.settings import ConfigError, Keys

_LONGEST = 300  # characters of a message; torch's may have a stack of C++
_PROJECT = str(Path(__file__).parents[1])


@contextmanager
def errors_told(field: Keys, problem: str, class_path: str) -> Iterator[None]:
    """Turn whatever a user's code raises into a ConfigError.

    Args:
        field: the setting that names the class; () for none.
        problem: beginning of the message; the error and its place are added.
        class_path: the class that is used, such as "my_package.MyOptimizer".

    Raises:
        ConfigError: the code raised something, or called sys.exit.
    """
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(field, f"{problem}: {describe(error, class_path)}") from error


def describe(error: BaseException, class_path: str) -> str:
    """Return an error's type, its message, and the line of the user's code that it comes from.

    Args:
        error: as it was caught.
        class_path: the class that was used; its module is the user's, wherever it lies.
    """
    message = shorten(str(error), _LONGEST, placeholder=" …")
    if isinstance(error, SyntaxError):  # its message names the line
        return f"{type(error).__name__}: {message}"
    parts = [type(error).__name__, message]
    return ": ".join(part for part in parts if part) + _place(error, class_path)


def _place(error: BaseException, class_path: str) -> str:
    """Return the innermost line of the user's code in a traceback, in brackets; "" without one."""
    module = class_path.rpartition(".")[0]
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        is_other = file.startswith(("<", _PROJECT)) or is_installed(Path(file))
        if f"{frame.f_globals.get('__name__')}.".startswith(f"{module}.") or not is_other:
            return f" ({Path(file).name}, line {line})"
    return ""
