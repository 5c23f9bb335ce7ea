"""One-sentence messages for errors that a user's optimizer class raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from traceback import walk_tb

from experiments.optimizers.source_code import is_installed
from experiments.settings import ConfigError, Keys

_LONGEST = 300  # characters of a message that are shown; torch's may include a C++ stack trace
_PROJECT = str(Path(__file__).parents[1])


@contextmanager
def errors_explained(field: Keys, problem: str, *class_paths: str) -> Iterator[None]:
    """Turn any error of a user's code into a ConfigError.

    Args:
        field: the setting that names the class; () for none.
        problem: beginning of the message; the error and its place are added.
        class_paths: dotted paths of the user's classes, such as "my_package.MyOptimizer".

    Raises:
        ConfigError: the code raised something, or called sys.exit.
    """
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(field, f"{problem}: {describe(error, *class_paths)}") from error


def describe(error: BaseException, *class_paths: str) -> str:
    """Return the type and message of an error, and the line of the user's code that raised it.

    Args:
        error: the error.
        class_paths: dotted paths of the user's classes; their modules count as the user's code
            wherever they are installed.
    """
    message = shorten(str(error), _LONGEST, placeholder=" …")
    if isinstance(error, SyntaxError):  # the message of a SyntaxError names the line
        return f"{type(error).__name__}: {message}"
    parts = [type(error).__name__, message]
    return ": ".join(part for part in parts if part) + _place(error, class_paths)


def _place(error: BaseException, class_paths: tuple[str, ...]) -> str:
    """Return the innermost line of the user's code in a traceback, in brackets; "" without one."""
    modules = tuple(f"{path.rpartition('.')[0]}." for path in class_paths)
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        is_other = file.startswith(("<", _PROJECT)) or is_installed(Path(file))
        if f"{frame.f_globals.get('__name__')}.".startswith(modules) or not is_other:
            return f" ({Path(file).name}, line {line})"
    return ""
