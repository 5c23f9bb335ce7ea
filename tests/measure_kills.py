"""Kills processes of a small profile at random moments, and compares the results.

`make kill-test`. In each round a process is killed by SIGKILL while the profile runs: Snakemake, a
launcher, the fork server or a run. The same command then finishes the profile. The results must be
those of an undisturbed profile, no process may be left, and no two processes may train a step.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from experiments.files import make_folder
from tests.conftest import TEXT, profile_values, write_profile

ROOT = Path(__file__).parents[1]
VICTIMS = ("snakemake", "launcher", "server", "run")
TIMES = ["step_seconds", "optimizer_seconds"]


def checkout(folder: Path) -> Path:
    """Copy what a profile needs, with a small profile, and return the copy."""
    make_folder(folder)
    for name in ("experiments", "analysis", "powerstep", "profiles", "Snakefile"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    (folder / "text.txt").write_text(TEXT)
    values = profile_values(folder / "text.txt", steps=400, val_every=100)
    values["datasets"]["tiny"]["files"] = ["text.txt"]
    write_profile(folder / "tiny.yaml", values)
    return folder


def start(folder: Path) -> subprocess.Popen:
    """Start Snakemake on the runs of the profile."""
    plans = "import sys; from experiments.plan.reading import load_profile;"
    plans += " from experiments.plan.grid import plan;"
    plans += " print(*(r.spec.path for r in plan(load_profile('tiny.yaml'))), sep='\\n')"
    paths = subprocess.check_output([sys.executable, "-c", plans], cwd=folder, text=True).split()
    targets = [f"results/runs/{path}/summary.json" for path in paths]
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/default", *targets]
    return subprocess.Popen(
        [*command, "--config", "profile=tiny.yaml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def processes(folder: Path) -> dict[str, list[psutil.Process]]:
    """Return the processes that work in a folder, by their part."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in VICTIMS}
    for process in psutil.process_iter():
        try:
            line, parent = process.cmdline(), process.parent()
            if process.cwd() != str(folder) or not line:
                continue
            if "fork-server" in line:
                is_run = parent is not None and "fork-server" in parent.cmdline()
                # The parent of a run is process 1 after its server was killed.
                orphaned = (folder / "results").exists() and _holds_lock(process)
                found["run" if is_run or orphaned else "server"].append(process)
            elif "launch" in line:
                found["launcher"].append(process)
            elif "snakemake" in line:
                found["snakemake"].append(process)
        except psutil.Error:
            continue
    return found


def _holds_lock(process: psutil.Process) -> bool:
    return any(file.path.endswith("training/lock") for file in process.open_files())


def results(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the metrics of each run, without times."""
    return {
        str(path.parent.relative_to(folder)): pd.read_parquet(path).drop(columns=TIMES)
        for path in sorted(folder.glob("results/runs/*/*/*/metrics.parquet"))
    }


def check(folder: Path, expected: dict[str, pd.DataFrame]) -> None:
    """Check the results of a finished profile, and that no process is left."""
    found = results(folder)
    assert found.keys() == expected.keys()
    for name, frame in found.items():
        pd.testing.assert_frame_equal(frame, expected[name], check_exact=True)
        log = folder / name / "training" / "metrics.jsonl"
        steps = [json.loads(line)["step"] for line in log.open()]
        assert steps == sorted(set(steps)), f"{name} was trained by two processes"
    deadline = time.monotonic() + 20
    while any(left := processes(folder).values()):
        assert time.monotonic() < deadline, f"left: {[*left]}"
        time.sleep(0.2)


def finish(folder: Path) -> None:
    """Run the command until nothing is left to do."""
    for _ in range(3):
        if start(folder).wait() == 0 and len(results(folder)) == 4:
            return
    raise AssertionError("the profile did not finish")


def main() -> None:
    """Kill in rounds, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as made:
        whole = checkout(Path(made).resolve() / "whole")
        finish(whole)
        expected = results(whole)
        check(whole, expected)
        for number in range(options.rounds):
            folder = checkout(Path(made).resolve() / f"round{number}")
            shutil.copytree(whole / "results" / "corpora", folder / "results" / "corpora")
            victim, launched = VICTIMS[number % len(VICTIMS)], start(folder)
            while not any(folder.glob("results/runs/*/*/*/launch.log")):
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 6))
            while not (alive := processes(folder)[victim]) and launched.poll() is None:
                time.sleep(0.02)  # between two runs there is none
            for process in alive[:1]:
                process.kill()
            launched.wait()
            finish(folder)
            check(folder, expected)
            starts = sum(
                json.loads(line)["event"] == "started"
                for log in folder.glob("results/runs/*/*/*/history.jsonl")
                for line in log.open()
            )
            killed = victim if alive else "nothing"
            print(f"round {number}: killed {killed}, {starts} starts", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
