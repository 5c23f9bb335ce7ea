"""The size of modules and folders. The direction of imports is checked by import-linter."""

from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("powerstep", "experiments", "analysis")  # powerstep is flat, so a little larger
MODULES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
FOLDERS = sorted({path.parent for path in MODULES})


@pytest.mark.parametrize("path", [*MODULES, ROOT / "Snakefile"], ids=lambda path: path.name)
def test_a_module_has_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_has_few_modules(folder):
    modules = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert len(modules) <= (13 if folder.name == "powerstep" else 11)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_has_at_most_four_levels_of_imports(package):
    graph = grimp.build_graph(package, cache_dir=None)
    for folder in {name.rpartition(".")[0] for name in graph.modules} - {""}:
        level = levels(graph, graph.find_children(folder))
        assert max(level.values()) <= (5 if folder == "powerstep" else 4), (folder, level)


def levels(graph: grimp.ImportGraph, modules: set[str]) -> dict[str, int]:
    """Return 1 for modules that import none of the others, 2 for those that import these, …."""
    imports = {name: graph.find_modules_directly_imported_by(name) & modules for name in modules}
    level: dict[str, int] = {}
    while len(level) < len(modules):
        ready = [name for name in modules - level.keys() if imports[name] <= level.keys()]
        assert ready, "imports form a circle"
        level |= {name: 1 + max((level[i] for i in imports[name]), default=0) for name in ready}
    return level
