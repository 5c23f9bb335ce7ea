"""A finished run travels as a small file, which is verified before it is restored."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.bundles.bundle import bundle_of, read_bundle
from experiments.bundles.folder import restore_bundles, write_bundles
from experiments.files import FileError
from experiments.runs.effective_steps import FILES
from experiments.runs.folder import ResultsFolder
from experiments.training.train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finished(tiny_plan, tiny_corpus, tmp_path):
    """Return the plan of four runs and the results folder, in which the first one is finished."""
    planned = tiny_plan(log_effective_steps=True)
    specs = [run.spec for run in planned]
    results = ResultsFolder(tmp_path / "there" / "results")
    run = results.run(specs[0].path)
    train(specs[0], tiny_corpus, run.training.path)
    run.publish()
    return specs, results


def altered(path, change):
    """Change the content of a bundle, and give it the digest of the new content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    change(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_restored_run_is_the_run(finished, tmp_path):
    specs, there = finished
    here, bundles = ResultsFolder(tmp_path / "here" / "results"), tmp_path / "bundles"
    assert write_bundles(specs, there, bundles).startswith("1 of 4 runs are done: 1 new bundles")
    assert restore_bundles(bundles, here).startswith("1 bundles: 1 restored, 0 were done already")
    original, restored = there.run(specs[0].path), here.run(specs[0].path)
    assert restored.is_done
    assert restored.summary == original.summary | {"restored_from": bundles.as_posix()}
    whole, thinned = (pd.read_parquet(run.metrics_file) for run in (original, restored))
    validated = whole[whole["val_loss"].notna()].reset_index(drop=True)
    assert len(thinned) == len(validated) == 3
    pd.testing.assert_frame_equal(thinned, validated, rtol=1e-5, check_exact=False)
    assert any((original.path / name).exists() for name in FILES)
    for name in FILES:
        if (original.path / name).exists():
            assert (restored.path / name).read_bytes() == (original.path / name).read_bytes()


def test_runs_and_bundles_that_exist_are_kept(finished, tmp_path):
    specs, results = finished
    bundles = tmp_path / "bundles"
    write_bundles(specs, results, bundles)
    before = results.run(specs[0].path).summary
    assert restore_bundles(bundles, results).startswith("1 bundles: 0 restored, 1 were done")
    assert results.run(specs[0].path).summary == before
    path = bundles / f"{specs[0].path}.json"
    first = path.stat().st_mtime_ns
    assert "0 new bundles" in write_bundles(specs, results, bundles)
    assert path.stat().st_mtime_ns == first


def change_seed(content):
    content["spec"]["seed"] += 1


def change_arithmetic(content):
    content["spec"]["arithmetic"] = 1


def add_path(content):
    content["files"]["../../escaped"] = "AAAA"


def add_junk(content):
    content["metrics"][0]["val_loss"] = "low"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_seed, "holds another run than its name says"),
        (change_arithmetic, "is a run of another version of the code: arithmetic: Input should be"),
        (add_path, "must hold rows of step, tokens"),
        (add_junk, "must hold rows of step, tokens"),
        (lambda content: content.update(format=2), "has the format 2, but this version reads 1"),
        (lambda content: content["summary"].update(status="failed"), "of a run that has ended"),
    ],
)
def test_an_invalid_bundle_is_told_and_nothing_is_restored(change, told, finished, tmp_path):
    specs, there = finished
    here, bundles = ResultsFolder(tmp_path / "here" / "results"), tmp_path / "bundles"
    write_bundles(specs, there, bundles)
    altered(bundles / f"{specs[0].path}.json", change)
    with pytest.raises(FileError, match=told):
        restore_bundles(bundles, here)
    assert not here.path.exists()


def test_an_altered_bundle_is_told(finished, tmp_path):
    specs, there = finished
    bundle = bundle_of(specs[0], there.run(specs[0].path))
    path = tmp_path / f"{specs[0].path}.json"
    bundle.write(path)
    assert read_bundle(path) == bundle
    text = path.read_text(encoding="utf-8")
    loss = str(bundle.summary["final_val_loss"])
    path.write_text(text.replace(loss, "1.5"), encoding="utf-8")
    with pytest.raises(FileError, match=r"was altered: its content must have the sha256 [0-9a-f]"):
        read_bundle(path)
    path.write_text(text[:-20], encoding="utf-8")
    with pytest.raises(FileError, match="is damaged: it must be a bundle"):
        read_bundle(path)


def test_other_versions_of_packages_are_told(finished, tmp_path):
    specs, there = finished
    bundles = tmp_path / "bundles"
    write_bundles(specs, there, bundles)

    def change(content):
        content["summary"]["provenance"]["packages"]["torch"] = "1.0"

    altered(bundles / f"{specs[0].path}.json", change)
    told = restore_bundles(bundles, ResultsFolder(tmp_path / "here"))
    assert "1 were trained with torch 1.0; installed is 2." in told


def test_a_folder_without_bundles_is_told_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "experiments", "restore", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none'} has no bundles")
    assert len(done.stderr.splitlines()) == 1
