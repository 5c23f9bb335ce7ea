"""Folders of bundles: writing those of a profile's runs, and restoring them into results/."""

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.bundles.bundle import SUFFIX, Bundle, bundle_of, read_bundle
from experiments.files import FileError, locked, make_folder
from experiments.plan.spec import RunSpec
from experiments.runs.folder import ResultsFolder


def write_bundles(specs: Iterable[RunSpec], results: ResultsFolder, folder: Path) -> str:
    """Write the bundles of runs that are done; bundles that exist are kept.

    Args:
        specs: the runs.
        results: the folder `results/`.
        folder: folder of the bundles, one file <RunSpec.path>.json for each.

    Returns:
        A sentence with the numbers of runs.

    Raises:
        FileError: the metrics of a run are damaged, or a file cannot be written.
    """
    planned = {spec.path: spec for spec in specs}
    done = [path for path in planned if results.run(path).is_done]
    new = [path for path in done if not (folder / f"{path}{SUFFIX}").exists()]
    for path in new:
        bundle_of(planned[path], results.run(path)).write(folder / f"{path}{SUFFIX}")
    return (
        f"{len(done)} of {len(planned)} runs are done: {len(new)} new bundles in {folder},"
        f" {len(done) - len(new)} were there already"
    )


def restore_bundles(folder: Path, results: ResultsFolder) -> str:
    """Restore the runs of all bundles in a folder, and below it, that have no result yet.

    All bundles are verified before the first one is restored.

    Args:
        folder: folder of the bundles.
        results: the folder `results/`.

    Returns:
        The numbers of runs, and what they were trained with, one sentence a line.

    Raises:
        FileError: there is no bundle, one is not valid, or a file cannot be written.
    """
    paths = sorted(folder.rglob(f"*{SUFFIX}"))
    if not paths:
        raise FileError(f"{folder} has no bundles: it must be a folder that `make bundles` wrote")
    bundles = [read_bundle(path) for path in paths]
    restored = 0
    for bundle in bundles:
        run = results.run(bundle.path)
        make_folder(run.path)
        with locked(run.launcher_lock):
            if not run.is_done:
                bundle.restore(run, folder.as_posix())
                restored += 1
    counts = (
        f"{len(bundles)} bundles: {restored} restored, {len(bundles) - restored} were done already"
    )
    return "\n".join([counts, *_differing_versions(bundles)])


def _differing_versions(bundles: Iterable[Bundle]) -> list[str]:
    """Return a sentence for each package whose version differs from the installed one."""
    packages = Counter(
        (name, theirs)
        for bundle in bundles
        for name, theirs in bundle.summary.get("provenance", {}).get("packages", {}).items()
    )
    return [
        f"{count} were trained with {name} {theirs}; installed is {_installed(name) or 'none'}"
        for (name, theirs), count in packages.items()
        if theirs != _installed(name)
    ]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
