"""Runs in forks of one process give the results of fresh processes, whatever is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.launch import warm
from experiments.runs.folder import RunFolder
from tests.experiments.fork_servers import owner, owning_process, server_of

TIMES = ["step_seconds", "optimizer_seconds"]
ROOT = Path(__file__).parents[2]


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def launch(tiny_corpus, tmp_path, tiny_plan):
    """Return a function that starts the launcher of a run in a folder."""

    def start(name, server_folder, **training):
        spec = tiny_plan(**training)[2].spec  # PowerStep with int8 state
        run = RunFolder(tmp_path / name)
        command = [sys.executable, "-m", "experiments", "launch", "--corpus", str(tiny_corpus)]
        command += ["--spec", spec.model_dump_json(), "--folder", str(run.path)]
        environment = {"POWERSTEP_FORK_SERVER": server_folder} if server_folder else {}
        launcher = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        return run, launcher

    return start


def trains(run):
    return run.training.metrics_log.exists() and run.training.metrics_log.stat().st_size


def test_metrics_are_those_of_a_fresh_process_bit_for_bit(launch):
    frames = []
    with owner() as folder:
        for name in ("fresh", "first", "second"):
            run, launcher = launch(name, folder if name != "fresh" else None)
            assert launcher.communicate()[0] == "completed\n"
            frames.append(pd.read_parquet(run.metrics_file).drop(columns=TIMES))
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)


def test_the_server_has_one_thread_and_serves_all_runs(launch):
    with owner() as folder:
        launch("a", folder)[1].communicate()
        server = server_of(folder)
        launch("b", folder)[1].communicate()
        assert server_of(folder) == server
        assert server.num_threads() == 1
    wait_until(lambda: not server.is_running(), 10)
    assert not Path(folder).exists()


def test_importing_everything_does_not_touch_cuda():
    program = """
import torch
def touched(*_):
    raise AssertionError("CUDA was touched")
for name in ("is_available", "device_count", "current_device", "init", "_lazy_init"):
    setattr(torch.cuda, name, touched)
from experiments.training.lightning_import import import_lightning
import_lightning()
import experiments.training.train
import transformers.models.qwen3.modeling_qwen3
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_after_an_import_that_touched_cuda_children_are_new_processes(tmp_path, monkeypatch):
    # It lets torch see what its build for CUDA sees in forks of such a process, which would print
    # "forked".
    (tmp_path / "touches_cuda.py").write_text(
        "import torch, experiments.__main__\n"
        "torch.cuda._is_in_bad_fork = lambda: True\n"
        "experiments.__main__.main = lambda _: print('forked')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    outputs = []
    with owner() as folder:
        monkeypatch.setenv("POWERSTEP_FORK_SERVER", folder)
        for modules in ([], ["touches_cuda"], []):
            with (tmp_path / "log").open("w+b") as log:
                process = warm.start("experiments", ["plan", "--help"], log.fileno(), modules)
                assert process.wait(60) == 0
                log.seek(0)
                outputs.append(log.read())
            assert isinstance(process, warm.WarmProcess)
        assert server_of(folder)
    assert outputs[0].startswith(b"usage:")
    assert len(set(outputs)) == 1


def test_a_run_outlives_its_server_and_the_next_run_has_a_new_one(launch):
    with owner() as folder:
        run, launcher = launch("a", folder, steps=600, val_every=200)
        wait_until(lambda: trains(run))
        killed = server_of(folder)
        killed.kill()
        assert launcher.communicate()[0] == "completed\n"
        steps = [json.loads(line)["step"] for line in run.training.metrics_log.open()]
        assert steps == list(range(1, 601))
        assert launch("b", folder)[1].communicate()[0] == "completed\n"
        assert server_of(folder) not in (None, killed)


def test_a_run_that_fails_after_its_server_was_killed_is_failed(launch):
    with owner() as folder:
        run, launcher = launch("a", folder, steps=3000, val_every=1000)
        wait_until(lambda: trains(run))
        (child,) = server_of(folder).children()
        server_of(folder).kill()
        child.kill()
        assert launcher.communicate()[0] == "failed\n"
        assert run.summary["reason"].startswith("exit code unknown: ")


def test_all_processes_end_after_their_owner_was_killed(launch):
    with owning_process() as (process, folder):
        run, launcher = launch("a", folder, steps=600, val_every=200)
        wait_until(lambda: trains(run))
        server = server_of(folder)
        process.kill()
        assert launcher.communicate()[0] == "completed\n"
        wait_until(lambda: not server.is_running(), 10)
    assert not Path(folder).exists()


def test_an_idle_server_ends():
    with owner() as folder:
        program = (
            "import sys; from pathlib import Path; from experiments.launch import fork_server;"
            " fork_server.IDLE = 0.5; fork_server.serve(Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=True, timeout=120)
        assert not Path(folder, "socket").exists()


def test_a_server_that_cannot_start_is_done_without(launch, tmp_path):
    (tmp_path / "file").touch()
    run, launcher = launch("a", str(tmp_path / "file"))
    assert launcher.communicate()[0] == "completed\n"
    assert run.summary["status"] == "completed"
