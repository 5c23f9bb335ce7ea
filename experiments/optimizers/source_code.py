"""Hash of the user's own source code of an optimizer. The code is read, not imported."""

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path

from experiments.files import file_sha256

_ROOT = Path(__file__).resolve().parents[2]
_OWN = ("experiments", "powerstep")  # this project's packages; each run records their commit
_INSTALLED = {"site-packages", "dist-packages"}  # names of the folders with installed packages
_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


def source_sha256(class_path: str) -> str | None:
    """Return a sha256 of the modules that define a user's class.

    These are the module in `class_path`, and the modules that it imports from the same folder.

    Args:
        class_path: dotted path, such as my_package.optimizers.MyOptimizer.

    Returns:
        None for a class of this project or of an installed package, and for a class that is not
        found, which the plan refuses.
    """
    module = class_path.rpartition(".")[0]
    folder = _folder_of(module.partition(".")[0])
    if folder is None:
        return None
    digest = hashlib.sha256()
    for name, path in sorted(_modules(module, folder).items()):
        digest.update(f"{name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _folder_of(top: str) -> Path | None:
    """Return the folder that contains a user's module or package; None if it is not the user's."""
    spec = None
    with suppress(ValueError):  # find_spec raises it for a __main__ without a spec
        # The same search path in Snakemake's own process as in the commands of its rules.
        spec = PathFinder.find_spec(top, ["", str(_ROOT)]) or importlib.util.find_spec(top)
    if top in _OWN or spec is None or not (spec.has_location or spec.submodule_search_locations):
        return None
    places = [
        *(spec.submodule_search_locations or []),
        spec.origin,
    ]  # a package has its folder here
    folder = Path(places[0]).resolve().parent
    return None if is_installed(folder) else folder


def is_installed(path: Path) -> bool:
    """Tell whether a path is in the standard library or in a folder of installed packages."""
    return bool(_INSTALLED.intersection(path.parts)) or path.resolve().is_relative_to(_STANDARD)


def _modules(module: str, folder: Path) -> dict[str, Path]:
    """Return the files of a module, its packages and their imports from a folder, by name."""
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        package = name.rpartition(".")[0]
        base = folder.joinpath(*name.split("."))
        if not name or name in found or name.partition(".")[0] in _OWN:
            continue
        pending.append(package)
        if (base / "__init__.py").is_file():
            found[name], package = base / "__init__.py", name
        elif base.with_suffix(".py").is_file():
            found[name] = base.with_suffix(".py")
        if name in found:
            pending += _imports(found[name], package)
    return found


def _imports(path: Path, package: str) -> Iterator[str]:
    """Yield the names that a file imports; some are names inside modules."""
    with suppress(SyntaxError, ValueError):  # the plan imports the file, and reports its error
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: -node.level + 1 or None] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
