"""A run that is launched on this machine ends with a status, whatever happens to its process."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from experiments.files import read_lines
from experiments.launch.gpus import own_gpu, visible_gpus
from experiments.launch.status import status
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.runs.logs import last_line
from tests.conftest import profile_values, write_profile
from tests.experiments.fork_servers import owner, server_of


@pytest.fixture
def planned(tmp_path, text_file):
    """Return a function that plans one run; keywords override its training settings."""

    def make(class_path="torch.optim.AdamW", args=None, **training):
        values = profile_values(text_file, **training)
        values["optimizers"] = {
            "mine": {"label": "x", "class": class_path, "args": args or {}, "source": "a test"}
        }
        values["experiments"]["comparison"] |= {"optimizers": ["mine"], "seeds": [0]}
        return plan(load_profile(str(write_profile(tmp_path / "one.yaml", values))))

    return make


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def server_folder(request):
    """Return the folder of a fork server, or None if each run has an interpreter of its own."""
    if getattr(request, "param", "warm") == "cold":
        yield None
        return
    with owner() as folder:
        yield folder


cold_and_warm = pytest.mark.parametrize("server_folder", ["cold", "warm"], indirect=True)


@pytest.fixture
def launch(tiny_corpus, results, server_folder):
    """Return a function that starts the launcher of a planned run."""
    environment = os.environ | ({"POWERSTEP_FORK_SERVER": server_folder} if server_folder else {})

    def start(planned, *options):
        (run,) = planned
        command = [sys.executable, "-m", "experiments", "launch", *options]
        command += ["--spec", run.spec.model_dump_json(), "--corpus", str(tiny_corpus)]
        command += ["--folder", str(results / "runs" / run.spec.path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    return start


def folder_of(planned, results):
    return RunFolder(results / "runs" / planned[0].spec.path)


def wait_until_it_trains(run):
    deadline, log = time.monotonic() + 180, run.training.path / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trainer_of(launcher, server_folder):
    parents = [server_of(server_folder)] if server_folder else [psutil.Process(launcher.pid)]
    (child,) = [child for parent in parents for child in parent.children()]
    return child


LONG = {"steps": 3000, "val_every": 1000}


def test_a_result_is_published_and_not_computed_twice(planned, launch, results):
    run = folder_of(planned(), results)
    output, _ = launch(planned()).communicate()
    assert output == "completed\n"
    first = run.summary
    assert first["launch"] == {"attempts": 1, "job": None}
    pd.testing.assert_frame_equal(
        pd.read_parquet(run.path / "metrics.parquet"),
        pd.read_parquet(run.training.path / "metrics.parquet"),
    )
    # Snakemake deletes the outputs of a job before it starts the job.
    for name in ("summary.json", "metrics.parquet"):
        (run.path / name).unlink()
    launch(planned()).communicate()
    assert run.summary == first
    assert len(run.history.events("started")) == 1


@cold_and_warm
def test_a_process_that_is_killed_is_a_failed_run_with_what_it_had(
    planned, launch, results, server_folder
):
    run = folder_of(planned(**LONG), results)
    launcher = launch(planned(**LONG))
    wait_until_it_trains(run)
    trainer_of(launcher, server_folder).kill()
    output, _ = launcher.communicate()
    assert (launcher.returncode, output) == (0, "failed\n")
    summary = run.summary
    assert summary["reason"].startswith("signal 9: ")
    assert 0 < summary["steps"] < 3000
    assert len(read_lines(run.training.metrics_log)) >= summary["steps"]
    assert run.damaged == []
    assert run.failures == 1
    assert not run.is_done


def test_an_error_is_named_by_its_last_line(planned, launch, results):
    mine = planned(class_path="tests.slurm.optimizers.Crashing")
    assert launch(mine).communicate()[0] == "failed\n"
    summary = folder_of(mine, results).summary
    reason = (
        "RuntimeError: optimizers.mine: the step of"
        " tests.slurm.optimizers.Crashing raised RuntimeError: this optimizer has a bug"
        " (optimizers.py, line 26)"
    )
    assert summary["reason"] == f"exit code 1: {reason}"
    assert reason in summary["log"][-2:]


@cold_and_warm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_stopped_stops_its_run_which_stays_resumable(
    planned, launch, results, server_folder, number
):
    run = folder_of(planned(**LONG), results)
    launcher = launch(planned(**LONG))
    wait_until_it_trains(run)
    trainer = trainer_of(launcher, server_folder)
    launcher.send_signal(number)
    launcher.communicate()
    assert launcher.returncode == 128 + number
    assert not trainer.is_running()
    assert not run.summary
    assert run.failures == 0


def test_a_run_whose_launcher_was_killed_is_waited_for_and_not_started_again(
    planned, launch, results
):
    short = {"steps": 600, "val_every": 200}
    run = folder_of(planned(**short), results)
    first = launch(planned(**short))
    wait_until_it_trains(run)
    first.kill()
    first.communicate()
    assert launch(planned(**short)).communicate()[0] == "completed\n"
    steps = [json.loads(line)["step"] for line in (run.training.path / "metrics.jsonl").open()]
    assert steps == list(range(1, 601))


def test_tensorboard_gets_every_logged_number(planned, launch, results):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mine = planned()
    launch(mine, "--tensorboard", "1").communicate()
    run = folder_of(mine, results)
    events = EventAccumulator(str(run.training.path / "tensorboard"))
    events.Reload()
    frame = pd.read_parquet(run.path / "metrics.parquet")
    for name in ("train_loss", "lr", "val_loss"):
        written = {event.step: event.value for event in events.Scalars(name)}
        expected = frame.set_index("step")[name].dropna()
        assert written == pytest.approx(expected.to_dict(), rel=1e-6)


def test_status_shows_where_each_run_stands(planned, launch, results, server_folder):
    mine = planned(**LONG)
    run = folder_of(mine, results)
    assert status(mine, ResultsFolder(results)).endswith("\n1 runs: 1 pending")
    launcher = launch(mine)
    wait_until_it_trains(run)
    shown = status(mine, ResultsFolder(results))
    assert shown.endswith("1 runs: 1 running")
    (line,) = re.findall(r"^tiny +mine +.*$", shown, re.MULTILINE)
    step, loss = re.search(r"running +(\d+) +(\d\.\d+) +[\d,]+ +\d:\d\d:\d\d", line).groups()
    assert 0 < int(step) < 3000
    assert 0 < float(loss) < 10
    trainer = trainer_of(launcher, server_folder)
    launcher.kill()
    launcher.communicate()
    assert "its launcher has ended" in status(mine, ResultsFolder(results))
    trainer.kill()
    trainer.wait()


def test_a_launcher_loads_neither_torch_nor_pandas():
    modules = (
        "experiments.launch.launch, experiments.launch.here, experiments.launch.slurm.launcher"
    )
    program = f"import sys, {modules}; sys.exit(len({{'torch', 'pandas'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_gpus_are_those_the_user_shows(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f1e")
    assert visible_gpus() == ["2", "GPU-8f1e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_each_run_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "test-a,test-b")
    with own_gpu() as first, own_gpu() as second:
        assert {first, second} == {"test-a", "test-b"}
    with own_gpu() as again:
        assert again == "test-a"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("0%|\r50%|\r\nTraceback (most recent call last):\nKeyError: 3\n", "KeyError: 3"),
        (
            "\r1% step 3slurmstepd: error: Detected 1 oom-kill event(s)\n"
            "srun: error: n1: task 0: Killed\n",
            "slurmstepd: error: Detected 1 oom-kill event(s)",
        ),
        (
            "5%Traceback (most recent call last):\n  at\nValueError: no\n"
            "srun: error: n1: task 0: Exited with exit code 1\n",
            "ValueError: no",
        ),
        ("", "it printed nothing"),
    ],
)
def test_the_line_that_tells_why(tmp_path, log, reason):
    (tmp_path / "log").write_text(log)
    assert last_line(tmp_path / "log") == reason
