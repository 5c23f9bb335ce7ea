"""A result of another version of the training's arithmetic is told of, kept and not used."""

import json

from experiments.files import make_folder
from experiments.launch.outdated import outdated_runs, outdated_sentence
from experiments.launch.status import status
from experiments.plan.spec import ARITHMETIC
from experiments.runs.folder import ResultsFolder


def leave_result(spec, results, **changes):
    """Write the files of a finished run of another version, and return its folder."""
    folder = results.run(f"{spec.path}0").path  # the name has another hash
    make_folder(folder / "training")
    dumped = spec.model_dump(mode="json", by_alias=True) | changes
    (folder / "training" / "spec.json").write_text(json.dumps(dumped))
    (folder / "summary.json").write_text('{"status": "completed"}')
    return folder


def test_it_is_told_and_the_run_is_pending(tiny_plan, tmp_path):
    planned, results = tiny_plan(), ResultsFolder(tmp_path / "results")
    specs = [run.spec for run in planned]
    assert outdated_sentence(specs, results) == ""
    first = leave_result(specs[0], results, arithmetic=ARITHMETIC - 1)
    assert outdated_runs(specs, results) == [first]
    shown = status(planned, results)
    assert "1 result is not used, because the training's arithmetic has changed" in shown
    assert str(first) in shown
    assert shown.endswith(f"{len(specs)} runs: {len(specs)} pending")
    leave_result(specs[1], results, arithmetic=ARITHMETIC - 1)
    assert outdated_sentence(specs, results).startswith("2 results are not used")
    assert first.exists()


def test_a_result_from_before_there_were_versions_is_told(tiny_plan, tmp_path):
    spec, results = tiny_plan()[0].spec, ResultsFolder(tmp_path / "results")
    folder = leave_result(spec, results)
    path = folder / "training" / "spec.json"
    dumped = json.loads(path.read_text())
    del dumped["arithmetic"]
    path.write_text(json.dumps(dumped))
    assert outdated_runs([spec], results) == [folder]


def test_results_of_other_settings_and_damaged_ones_are_not_told(tiny_plan, tmp_path):
    spec, results = tiny_plan()[0].spec, ResultsFolder(tmp_path / "results")
    folder = leave_result(spec, results, seed=7)
    assert outdated_runs([spec], results) == []
    (folder / "training" / "spec.json").write_text("{")
    assert outdated_runs([spec], results) == []


def test_the_version_is_part_of_the_name_of_a_run(tiny_plan, monkeypatch):
    spec = tiny_plan()[0].spec
    other = spec.model_copy(update={"arithmetic": ARITHMETIC + 1})
    assert spec.path != other.path
