"""The user's own code behind an optimizer, on which its results depend. Imports none of it."""

import hashlib
import importlib.util
import sysconfig
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from modulefinder import ModuleFinder
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OWN = ("experiments", "powerstep")  # their commit is in each run's provenance
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))


def source_sha256(class_path: str) -> str | None:
    """Return a sha256 of the modules that a class of the user's comes from.

    These are the module that `class_path` names and those that it imports from the same folder.

    Args:
        class_path: dotted, such as my_package.optimizers.MyOptimizer.

    Returns:
        None for a class of this project or of an installed package, and for one that cannot be
        found; the plan refuses that one.
    """
    module = class_path.rpartition(".")[0]
    top = module.partition(".")[0]
    spec = _find(top)
    if top in _OWN or spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).resolve().parent
    if spec.submodule_search_locations:
        folder = folder.parent
    if any(folder.is_relative_to(installed.resolve()) for installed in _INSTALLED):
        return None
    digest = hashlib.sha256()
    for name, path in sorted(_imported(module, folder).items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _find(top: str) -> ModuleSpec | None:
    """Find a module as the commands of the Snakefile do, also in Snakemake's own process."""
    with suppress(ValueError):  # of __main__, which may have no spec
        return PathFinder.find_spec(top, ["", str(_ROOT)]) or importlib.util.find_spec(top)


def _imported(module: str, folder: Path) -> dict[str, Path]:
    """Return by name the files in a folder that a module consists of and imports."""
    finder = ModuleFinder([str(folder)], excludes=_OWN)
    with suppress(ImportError, SyntaxError):  # the plan imports it and tells these
        finder.import_hook(module)
    found = {name: found.__file__ for name, found in finder.modules.items()}
    return {name: Path(path) for name, path in found.items() if path}
