"""The Snakefile runs from end to end, on a tiny profile in its own directory."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.claims.definitions import load_claims
from experiments.runs.folder import RunFolder
from tests.analysis.conftest import write_studies
from tests.conftest import profile_values, write_profile

ROOT = Path(__file__).parent.parent

CRASHING = (ROOT / "tests" / "slurm" / "optimizers.py").read_text(encoding="utf-8")

# Variables that a user may have set. They must neither change a result nor stop a run.
HOSTILE = {
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",  # Python then reads and writes ASCII unless an encoding is named
    "MATPLOTLIBRC": sys.executable,  # not a matplotlibrc, so importing matplotlib fails
    "MPLBACKEND": "nonesuch",
}


def snakemake(folder, *arguments, profile="tiny.yaml"):
    """Run the project's Snakefile in `folder`; return its exit code and what it printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--directory", str(folder)),
            *("--snakefile", str(ROOT / "Snakefile")),
            *("--workflow-profile", str(ROOT / "profiles" / "default")),
            *("--config", f"profile={folder / profile}", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | HOSTILE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text_file):
    """Return a directory in which the tiny profile has been run."""
    path = tmp_path_factory.mktemp("pipeline") / "a b'c $d & (e)#f"
    path.mkdir()
    write_profile(path / "tiny.yaml", profile_values(text_file))
    write_studies(path / "results")  # else measured, which takes minutes
    (path / "results" / "memory.csv").unlink()
    code, output = snakemake(path)
    assert code == 0, output
    return path


def test_it_ends_in_tables_figures_and_a_report(folder):
    results = folder / "results" / "tiny"
    for name in ("table1", "table2", "table3", "table4", "cost", "time_to_target"):
        for suffix in ("csv", "md", "tex"):
            assert (results / "tables" / f"{name}.{suffix}").stat().st_size > 0
    for name in ("fig1", "fig2a", "cost_tiny", "tradeoff_tiny", "state_memory", "convergence"):
        assert (results / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(results / "figures" / f"{name}.csv")) > 1
    assert pd.read_csv(results / "claims.csv")["claim"].nunique() == len(load_claims("powerstep"))
    assert "<h1>PowerStep-Bench: tiny</h1>" in (results / "report.html").read_text()


def test_it_ends_by_saying_what_was_found_and_where(folder):
    (folder / "results" / "tiny" / "report.html").unlink()
    code, output = snakemake(folder)
    assert code == 0
    assert "4 runs: 4 completed" in output
    assert "2. supported: Halves AdamW's optimizer state in fp32; int8 reduces it" in output
    assert "8. not tested at this scale: Stacey" in output  # it is not in the profile
    assert "open results/tiny/report.html" in output


def test_the_tables_numbers_are_those_of_the_runs(folder):
    table = pd.read_csv(folder / "results/tiny/tables/table4.csv").set_index("optimizer")
    summaries = [
        json.loads(path.read_text())
        for path in (folder / "results/runs/tiny/adamw").glob("*/summary.json")
    ]
    losses = [summary["final_val_loss"] for summary in summaries]
    assert table.loc["adamw", "mean"] == pytest.approx(sum(losses) / 2)
    assert table.loc["adamw", "n"] == 2


def test_nothing_is_left_to_do_the_second_time(folder):
    code, output = snakemake(folder, "--dry-run")
    assert code == 0
    assert "Nothing to be done" in output


def test_texts_that_moved_train_nothing_anew(folder, text_file, tmp_path):
    moved = shutil.copy(text_file, tmp_path / "another_name.txt")
    write_profile(folder / "moved.yaml", profile_values(moved))
    code, output = snakemake(folder, "--dry-run", profile="moved.yaml")
    assert code == 0, output
    assert "train tiny with" not in output


def test_a_figure_asked_for_by_its_path_trains_its_own_runs_alone(folder, text_file):
    values = profile_values(text_file, steps=16)
    values["experiments"]["stacey"] = {
        "models": ["tiny"],
        "optimizers": ["powerstep", "stacey"],
        "seeds": [0],
    }
    write_profile(folder / "figures.yaml", values)
    code, output = snakemake(
        folder, "--", "results/figures/figures/fig7a.pdf", profile="figures.yaml"
    )
    assert code == 0, output
    assert (folder / "results/figures/figures/fig7a.pdf").exists()
    assert output.count("train tiny with") == 2
    assert "train tiny with adamw" not in output


def test_what_is_done_can_be_looked_at_before_the_rest_is(folder, text_file):
    values = profile_values(text_file)
    values["experiments"]["comparison"]["seeds"] = [0, 1, 7]  # the last was never trained
    write_profile(folder / "partly.yaml", values)
    code, output = snakemake(folder, "--", "so_far", profile="partly.yaml")
    assert code == 0, output
    assert "train tiny with" not in output
    results = folder / "results" / "partly"
    assert "6 runs: 4 completed, 2 missing" in (results / "verdicts.txt").read_text()
    assert "1 missing of 3" in (results / "tables/table4.md").read_text()
    assert "4 completed, 2 missing" in (results / "report.html").read_text()


def test_a_sweep_grows_until_its_best_rate_is_inside(tmp_path, text_file):
    values = profile_values(text_file)
    values["by_optimizer"] = {"adamw": {"lr": 2.5e-4}}  # instead of the best one expected
    grid = {"models": ["tiny"], "optimizers": ["adamw"], "seeds": [5], "rates": 3, "extend": 1}
    values["experiments"] = {"learning_rate": grid}
    write_profile(tmp_path / "grows.yaml", values)
    target = "results/grows/figures/lr_tiny.csv"
    code, output = snakemake(tmp_path, "--", target, profile="grows.yaml")
    assert code == 0, output
    assert re.search(r"^train +3$", output, re.MULTILINE)
    assert re.search(r"^extend +2$", output, re.MULTILINE)
    assert "3 runs are ready to train, and up to 2 may follow" in output
    # Twelve steps at these rates are too short to learn, so the highest rate is the best.
    decisions = {
        path.stem.split("_")[0]: json.loads(path.read_text(encoding="utf-8"))["needed"]
        for path in (tmp_path / "results/grows/extensions").rglob("*.json")
    }
    assert decisions == {"lr6.25e-05": False, "lr0.001": True}
    drawn = pd.read_csv(tmp_path / target)
    assert sorted(drawn["lr"]) == [0.000125, 0.00025, 0.0005, 0.001]
    code, output = snakemake(tmp_path, "--dry-run", "--", target, profile="grows.yaml")
    assert "Nothing to be done" in output
    # Nothing but a lost result is trained again.
    (run,) = (tmp_path / "results/runs/tiny/adamw").glob("lr0.001_seed5_*")
    shutil.rmtree(run)
    target = f"results/grows/extensions/learning_rate/tiny/adamw/{run.name}.json"
    code, output = snakemake(tmp_path, "--", target, profile="grows.yaml")
    assert code == 0, output
    assert output.count("train tiny with") == 1
    assert RunFolder(run).is_done


def test_snakemakes_own_report_holds_figures_tables_and_claims(folder):
    code, output = snakemake(folder, "--report", str(folder / "own.html"))
    assert code == 0, output
    for name in ("fig2a.png", "table4.csv", "claims.csv"):
        assert f"Adding {name}" in output
    assert (folder / "own.html").stat().st_size > 0


def test_each_run_stands_in_the_plan_as_a_job_of_its_own(folder, text_file):
    values = profile_values(text_file)
    values["experiments"]["comparison"]["seeds"] = [0, 1, 2]
    write_profile(folder / "more.yaml", values)
    code, output = snakemake(folder, "--dry-run", profile="more.yaml")
    assert code == 0
    assert output.count("train tiny with") == 2  # the runs of seeds 0 and 1 exist already
    assert "lr0.01_seed2" in output


def test_a_changed_entry_trains_its_own_runs_again_and_no_others(folder, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        "mine": {
            "label": "PowerStep, beta 0.2",
            "class": "powerstep.PowerStep",
            "args": {"beta": 0.2},
            "source": "a test",
        }
    }
    values["experiments"]["comparison"]["optimizers"].append("mine")
    write_profile(folder / "mine.yaml", values)
    code, output = snakemake(folder, "--dry-run", profile="mine.yaml")
    assert code == 0
    trained = [line for line in output.splitlines() if "train tiny with" in line]
    assert len(trained) == 2
    assert all("with mine" in line for line in trained)


def test_an_edit_of_the_profile_does_what_it_asks_for_and_no_more(folder, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        "mine": {"label": "Mine", "class": "torch.optim.SGD", "args": {}, "source": "a test"}
    }
    values["experiments"]["comparison"]["optimizers"].append("mine")
    write_profile(folder / "tiny.yaml", values)
    code, output = snakemake(folder)
    assert code == 0
    assert output.count("train tiny with") == output.count("train tiny with mine") == 2
    assert "6 runs: 6 completed" in output

    values["optimizers"]["mine"]["label"] = "Größe β"
    write_profile(folder / "tiny.yaml", values)
    code, output = snakemake(folder)
    assert code == 0
    assert "train tiny with" not in output
    table = (folder / "results/tiny/tables/table4.md").read_text(encoding="utf-8")
    assert "| Größe β " in table

    write_profile(folder / "tiny.yaml", profile_values(text_file))
    code, output = snakemake(folder)
    assert code == 0
    assert "train tiny with" not in output
    assert "4 runs: 4 completed" in output


def test_a_failed_run_stops_no_other_is_named_and_is_tried_again(
    folder, text_file, tmp_path, monkeypatch
):
    # An environment variable controls the crash: edited source would make it a different optimizer.
    at_will = CRASHING.replace("self.count == 3", "self.count == 3 and 'CRASH' in os.environ")
    (tmp_path / "crashing.py").write_text(f"import os\n{at_will}")
    monkeypatch.setenv("CRASH", "")
    values = profile_values(text_file, steps=8)
    values["optimizers"] = {
        "crashing": {"label": "x", "class": "crashing.Crashing", "args": {}, "source": "a test"}
    }
    values["experiments"]["comparison"]["optimizers"] = ["crashing", "adamw"]
    values["experiments"]["comparison"]["seeds"] = [0]
    write_profile(folder / "failing.yaml", values)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, output = snakemake(folder, profile="failing.yaml")
    assert code == 1
    assert "2 runs: " in output
    assert "1 completed" in output
    named = output[output.index("1 failed; the same command tries again:") :]
    assert named.startswith(
        "1 failed; the same command tries again:\n  results/runs/tiny/crashing/"
    )
    assert "RuntimeError: this optimizer has a bug" in named
    assert "1 failed" in (folder / "results/failing/report.html").read_text()
    assert "1 missing of 1" in (folder / "results/failing/tables/table4.md").read_text()
    finished = [
        json.loads(path.read_text())["steps"]
        for path in (folder / "results/runs/tiny/adamw").glob("*/summary.json")
    ]
    assert sorted(finished) == [8, 12, 12]

    monkeypatch.delenv("CRASH")
    code, output = snakemake(folder, profile="failing.yaml")
    assert code == 0
    assert output.count("train tiny with") == 1
    assert "2 runs: 2 completed" in output
    assert "Nothing to be done" in snakemake(folder, "--dry-run", profile="failing.yaml")[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1}, "training.lr is -1, but it should be greater than 0"),
        ({"batch_size": 100_000}, "tokens, but it must be below the"),
    ],
)
def test_bad_input_ends_it_before_any_training(folder, text_file, change, message):
    before = sorted((folder / "results").rglob("*"))
    write_profile(folder / "tiny.yaml", profile_values(text_file, **change))
    code, output = snakemake(folder)
    write_profile(folder / "tiny.yaml", profile_values(text_file))
    assert code != 0
    assert [line for line in output.splitlines() if line.startswith("error: ") and message in line]
    after = set((folder / "results").rglob("*"))
    assert after.issuperset(before)
    assert not [path for path in after.difference(before) if path.suffix != ".log"]


def test_damaged_results_are_made_again_and_not_trained_again(folder):
    runs = [RunFolder(path) for path in (folder / "results/runs/tiny/adamw").iterdir()]
    first, second = (run for run in runs if run.summary.get("steps") == 12)
    summary = first.summary
    (first.path / "summary.json").write_text('{"status": "comp')
    (second.path / "metrics.parquet").write_bytes(b"")
    with (first.path / "history.jsonl").open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00+00:00", "ev')
    code, output = snakemake(folder, "--dry-run")
    assert code == 0, output
    assert "summary.json was damaged: it is now summary.json.damaged" in output
    assert output.count("train tiny with") == 2
    asked = [str(run.path.relative_to(folder)) for run in (first, second)]
    files = [f"{asked[0]}/summary.json", f"{asked[1]}/metrics.parquet"]
    code, output = snakemake(folder, "--", *files)
    assert code == 0, output
    assert first.summary == summary
    assert [run.launch["attempts"] for run in (first, second)] == [1, 1]
    assert first.is_done
    assert second.is_done


@pytest.mark.parametrize("name", ["results", "results/runs/tiny"])
def test_a_file_in_the_place_of_a_folder_is_told(name, tmp_path, text_file):
    write_profile(tmp_path / "tiny.yaml", profile_values(text_file))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    code, output = snakemake(tmp_path, "--dry-run")
    assert code != 0
    assert f"error: {name} is not a folder, but must be one: move it away" in output


def test_an_argument_that_a_class_lacks_ends_it_before_any_training(folder, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        "mine": {"label": "x", "class": "torch.optim.SGD", "args": {"gamma": 1}, "source": "a test"}
    }
    values["experiments"]["comparison"]["optimizers"] = ["adamw", "mine"]
    values["experiments"]["comparison"]["seeds"] = [5]
    write_profile(folder / "wrong.yaml", values)
    code, output = snakemake(folder, profile="wrong.yaml")
    assert code != 0
    expected = r"error: wrong.yaml, line \d+: optimizers.mine.args has 'gamma', but torch.optim.SGD"
    assert re.search(expected, output)
    assert not list((folder / "results" / "runs").rglob("*seed5*"))


def test_an_unknown_key_of_the_command_line_is_refused(folder):
    code, output = snakemake(folder, "steps=5")
    assert code != 0
    assert "error: unknown key 'steps'; accepted: profile, runs_at_once" in output


@pytest.mark.parametrize("number", ["0", "many"])
def test_runs_at_once_must_be_a_number(folder, number):
    code, output = snakemake(folder, f"runs_at_once={number}")
    assert code != 0
    assert re.search(
        f"^error: runs_at_once is '?{number}'?, but it should be", output, re.MULTILINE
    )


def test_runs_side_by_side_share_the_cores(folder, text_file):
    write_profile(folder / "shared.yaml", profile_values(text_file, steps=16, lr=2e-2))
    arguments = ("runs_at_once=2", "--cores", "6", "--", "results/shared/tables/table4.md")
    code, output = snakemake(folder, *arguments, profile="shared.yaml")
    assert code == 0, output
    threads = [
        json.loads(path.read_text())["provenance"]["threads"]
        for path in (folder / "results/runs/tiny").glob("*/lr0.02*/summary.json")
    ]
    assert threads == [3] * 4
