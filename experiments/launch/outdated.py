"""Results of planned runs that another version of the training's arithmetic computed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.files import read_object
from experiments.plan.spec import ARITHMETIC, RunSpec
from experiments.runs.folder import ResultsFolder, TrainingFolder


def outdated_runs(specs: Iterable[RunSpec], results: ResultsFolder) -> list[Path]:
    """Return the folders of runs that are planned but for their version of the arithmetic."""
    found = []
    for spec in specs:
        folder = results.run(spec.path).path
        alike = folder.name.rpartition("_")[0]  # without the hash
        for other in folder.parent.glob(f"{alike}_*"):
            training = TrainingFolder(other / "training")
            if other != folder and _differs_only_in_version(training, spec):
                found.append(other)
    return found


def outdated_sentence(specs: Iterable[RunSpec], results: ResultsFolder) -> str:
    """Return a sentence on such runs; empty if there are none."""
    if not (found := outdated_runs(specs, results)):
        return ""
    runs = "1 result is" if len(found) == 1 else f"{len(found)} results are"
    return (
        f"{runs} not used, because the training's arithmetic has changed since (now version"
        f" {ARITHMETIC}), such as {found[0]}; the runs are trained again, and the old folders may"
        " be deleted"
    )


def _differs_only_in_version(folder: TrainingFolder, spec: RunSpec) -> bool:
    theirs = read_object(folder.spec)
    ours = spec.model_dump(mode="json", by_alias=True)
    return theirs is not None and _without_version(theirs) == _without_version(ours)


def _without_version(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in ("arithmetic", "corpus")}
