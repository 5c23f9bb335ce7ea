"""Half-written, damaged or unwritable files lose no finished work, and an error names them."""

import errno
import fcntl
import json
import os
import resource
import tempfile
from contextlib import contextmanager

import pandas as pd
import pytest

from experiments.corpus.batches import TokenBatches
from experiments.files import atomic
from experiments.launch.launch import launch
from experiments.launch.slurm.queue import Queue
from experiments.launch.status import status
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.runs.history import History
from experiments.runs.logs import last_line
from experiments.runs.metrics import COLUMNS, MetricsLog, write_parquet
from experiments.runs.summary import Failure, Status
from experiments.settings import ConfigError
from experiments.training.train import train

TIMES = ["step_seconds", "optimizer_seconds"]
ROW = {"step": 1, "tokens": 64, "train_loss": 5.0, "lr": 1e-3, "grad_norm": 1.0}
ROW |= {"update_rms": float("nan"), "step_seconds": 0.1, "optimizer_seconds": 0.01}
JUNK = {
    "half a line": b'{"time": "2026-01-01T00:00:00+00:00", "event": "star',
    "half a line and more": b'{"step": 7, "tok\n',
    "NULs": b"\0" * 512,
    "NULs in a line": b'{"event": \0\0\0\0\n',
    "not UTF-8": b'{"event": "started\xff"}\n',
    "a list": b'[{"event": "started", "step": 2}]\n',
    "a number": b"12",
    "another object": b'{"step": "many"}\n',
}
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "cut to zeros": lambda content: content[: len(content) // 2].ljust(len(content), b"\0"),
}
any_junk = pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
any_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def damaged(path, damage):
    path.write_bytes(damage(path.read_bytes()))


@contextmanager
def disk_with_room_for(size):
    """Fail writes that would make a file larger than `size` bytes."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def partial(folder):
    """Return the names of a folder's temporary files, which are hidden until they are complete."""
    return [name for name in os.listdir(folder) if name.startswith(".")]


# A run of 12 steps that was interrupted after step 9, one step past its checkpoint.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def spec(tiny_plan):
    return tiny_plan()[0].spec


@pytest.fixture
def cut(spec, tiny_corpus, whole, tmp_path, monkeypatch):
    """Return the folder of an interrupted run; `whole` gets the metrics of a complete one."""
    if not (whole / "summary.json").exists():
        train(spec, tiny_corpus, whole)
    take = TokenBatches.train

    def power_cut(self, seed, step, batch_size):
        if step == 9:
            raise RuntimeError("power cut")
        return take(self, seed, step, batch_size)

    folder = tmp_path / "run" / "training"
    monkeypatch.setattr(TokenBatches, "train", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        train(spec, tiny_corpus, folder)
    monkeypatch.setattr(TokenBatches, "train", take)
    return folder


def assert_as_whole(folder, whole):
    metrics = [pd.read_parquet(each / "metrics.parquet") for each in (folder, whole)]
    mine, expected = (frame.drop(columns=TIMES) for frame in metrics)
    pd.testing.assert_frame_equal(mine, expected, check_exact=True)


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_one_before(
    cut, spec, tiny_corpus, whole
):
    before = (cut / "last.ckpt").read_bytes()
    message = r"training/last\.ckpt cannot be written: File too large$"
    with disk_with_room_for(len(before) // 2), pytest.raises(ConfigError, match=message):
        train(spec, tiny_corpus, cut)
    assert (cut / "last.ckpt").read_bytes() == before
    assert not partial(cut)
    train(spec, tiny_corpus, cut)
    assert_as_whole(cut, whole)


def test_a_checkpoint_needs_no_room_in_the_temporary_folder(
    cut, spec, tiny_corpus, whole, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/no-room")
    train(spec, tiny_corpus, cut)
    assert_as_whole(cut, whole)


@any_damage
def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_anew(
    damage, cut, spec, tiny_corpus, whole, capfd
):
    damaged(cut / "last.ckpt", damage)
    left = (cut / "last.ckpt").read_bytes()
    train(spec, tiny_corpus, cut)
    assert_as_whole(cut, whole)
    assert (cut / "last.ckpt.damaged").read_bytes() == left
    (event,) = History(cut.parent / "history.jsonl").events("restarted")
    assert "last.ckpt is damaged" in event["reason"]
    assert event["reason"] in capfd.readouterr().err


def test_one_changed_byte_of_a_weight_is_damage(cut, spec, tiny_corpus, whole):
    content = bytearray((cut / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1  # torch would load this without an error
    (cut / "last.ckpt").write_bytes(content)
    train(spec, tiny_corpus, cut)
    assert_as_whole(cut, whole)
    assert (cut / "last.ckpt.damaged").exists()


@pytest.mark.parametrize("line", [None, 0, 3])
def test_metrics_that_were_lost_come_back_with_the_checkpoint(line, cut, spec, tiny_corpus, whole):
    log = cut / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.unlink()
    if line is not None:
        log.write_bytes(b"".join([*lines[:line], b"\0" * 80, *lines[line + 1 :]]))
    train(spec, tiny_corpus, cut)
    assert_as_whole(cut, whole)
    assert not (cut / "last.ckpt.damaged").exists()


@pytest.mark.parametrize("name", ["metrics.parquet", "summary.json"])
@any_damage
def test_a_result_of_training_that_is_damaged_is_made_again(name, damage, cut, spec, tiny_corpus):
    run = RunFolder(cut.parent)
    train(spec, tiny_corpus, cut)
    assert run.training.has_result
    whole = {path: path.read_bytes() for path in (cut / "metrics.parquet", cut / "last.ckpt")}
    damaged(cut / name, damage)
    assert not run.training.has_result
    train(spec, tiny_corpus, cut)
    assert run.training.has_result
    assert {path: path.read_bytes() for path in whole} == whole  # no step was taken


# Lines of JSON


@any_junk
def test_a_damaged_line_of_the_history_loses_no_other(junk, tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.append("started", job="1")
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(junk)
    history.append("started", job="2")
    history.append("failed")
    assert [event["job"] for event in history.events("started")] == ["1", "2"]
    assert len(history.events("failed", "started")) == 3


@any_junk
def test_a_damaged_line_of_the_metrics_loses_no_other(junk, tmp_path):
    log = tmp_path / "metrics.jsonl"
    MetricsLog(log).append(ROW)
    with log.open("ab") as file:
        file.write(junk)
    MetricsLog(log).append(ROW | {"step": 2, "val_loss": 4.0})
    read = MetricsLog(log)
    write_parquet(tmp_path / "metrics.parquet", read.rows)
    frame = pd.read_parquet(tmp_path / "metrics.parquet")
    assert frame.dtypes.astype(str).to_dict() == COLUMNS
    assert frame["step"].tolist() == [1, 2]
    assert frame["val_loss"].isna().tolist() == [True, False]


@any_junk
def test_a_failed_run_gets_a_summary_whatever_its_files_hold(junk, tmp_path):
    run = RunFolder(tmp_path)
    run.training.path.mkdir()
    MetricsLog(run.training.path / "metrics.jsonl").append(ROW)
    run.history.append("started")
    for path in (run.training.path / "metrics.jsonl", tmp_path / "history.jsonl", tmp_path / "log"):
        with path.open("ab") as file:
            file.write(junk)
    (tmp_path / "summary.json").write_bytes(junk)
    run.record_failure(Failure(Status.FAILED, "a reason", tmp_path / "log"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["reason"]) == ("failed", 1, "a reason")
    assert summary["launch"]["attempts"] == 1
    assert MetricsLog(run.training.metrics_log).rows == [pytest.approx(ROW, nan_ok=True)]
    assert run.damaged == []


@any_junk
def test_status_answers_whatever_the_files_hold(junk, tiny_plan, tmp_path):
    planned = tiny_plan()
    first, second, third = (RunFolder(tmp_path / "runs" / run.spec.path) for run in planned[:3])
    for run in (first, second, third):
        run.training.path.mkdir(parents=True)
        run.history.append("started")
    MetricsLog(first.training.path / "metrics.jsonl").append(ROW)
    for path in (first.training.path / "metrics.jsonl", first.path / "history.jsonl"):
        with path.open("ab") as file:
            file.write(junk)
    (second.path / "summary.json").write_bytes(junk)
    # An older version wrote such summaries.
    (third.path / "summary.json").write_text('{"status": "completed"}')
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "slurm_queue.json").write_bytes(junk)
    shown = status(planned, ResultsFolder(tmp_path))
    assert shown.endswith("4 runs: 1 running, 2 pending, 1 completed")
    assert "summary.json damaged; the same command makes the result again" in shown


@any_junk
def test_a_damaged_snapshot_of_the_queue_is_an_old_one(junk, tmp_path):
    (tmp_path / "queue.json").write_bytes(junk)
    snapshot = Queue(tmp_path / "queue.json").last()
    assert (snapshot.time, snapshot.jobs) == (0, {})


def test_a_result_is_published_though_the_history_is_lost(tmp_path):
    run = RunFolder(tmp_path)
    run.training.path.mkdir()
    (run.training.path / "summary.json").write_text('{"status": "completed"}')
    pd.DataFrame({"step": [1]}).to_parquet(run.training.path / "metrics.parquet")
    assert run.publish()["status"] == "completed"
    assert run.is_done


@pytest.mark.parametrize("name", ["summary.json", "metrics.parquet"])
@any_damage
def test_a_published_result_that_is_damaged_is_set_aside(name, damage, tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "summary.json").write_text('{"status": "completed"}')
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "metrics.parquet")
    assert run.is_done
    assert not run.set_aside_damaged()
    damaged(tmp_path / name, damage)
    assert not run.is_done
    assert run.set_aside_damaged() == [tmp_path / name]
    assert not (tmp_path / name).exists()


def test_the_reason_of_a_failure_is_of_the_last_attempt(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("Traceback (most recent call last):\n  x\nKeyError: 3\n")
    began = log.stat().st_size
    with log.open("a") as file:
        file.write("error: last.ckpt cannot be written: No space left on device\n")
    assert last_line(log, began) == "error: last.ckpt cannot be written: No space left on device"


# Errors of the operating system


@pytest.fixture
def without_locks(monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_system_without_locks_is_told(without_locks, spec, tiny_corpus, tmp_path):
    message = "cannot be locked: No locks available; .* on which flock works"
    with pytest.raises(ConfigError, match=f"launcher.lock {message}"):
        launch(RunFolder(tmp_path), lambda: None)
    with pytest.raises(ConfigError, match=f"training/lock {message}"):
        train(spec, tiny_corpus, tmp_path / "training")
    with pytest.raises(ConfigError, match=f"queue.lock {message}"):
        Queue(tmp_path / "queue.json").snapshot(since=1.0)


@pytest.mark.parametrize("taken", ["results", "results/runs/a"])
def test_a_file_in_the_place_of_a_folder_is_told(taken, tmp_path):
    (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / taken).write_text("")
    with pytest.raises(ConfigError, match=f"{taken} is not a folder, but must be one"):
        launch(RunFolder(tmp_path / "results" / "runs" / "a"), lambda: None)


def test_links_to_folders_are_folders(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    with atomic(tmp_path / "results" / "a" / "b.csv") as path:
        path.write_text("b")
    assert (tmp_path / "disk" / "a" / "b.csv").read_text() == "b"


# Writing


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_write_that_fails_leaves_the_file_before(error, tmp_path):
    def write_half():
        with atomic(tmp_path / "a.csv") as path:
            path.write_text("half")
            raise error

    (tmp_path / "a.csv").write_text("before")
    with pytest.raises((error, ConfigError)):
        write_half()
    assert (tmp_path / "a.csv").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace

    def synced(number):
        calls.append(("sync", os.readlink(f"/proc/self/fd/{number}")))
        sync(number)

    def replaced(source, target):
        calls.append(("replace", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with atomic(tmp_path / "a.csv") as path:
        path.write_text("whole")
    folder = ("sync", str(tmp_path))
    assert calls == [("sync", str(path)), ("replace", str(path)), folder]


@pytest.mark.parametrize("name", ["a.csv", f"{'n' * 251}.csv", "ö" * 127])
def test_any_name_that_the_system_takes_can_be_written(name, tmp_path):
    with atomic(tmp_path / name) as path:
        path.write_text("1")
    assert os.listdir(tmp_path) == [name]


def test_a_file_has_the_mode_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as path:
            path.write_text("1")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_killed_writers_left_is_removed_and_living_ones_are_not_disturbed(tmp_path):
    # Processes on two machines that share a disk may have the same pid.
    names = []
    for _ in range(2):
        child = os.fork()
        if not child:
            with atomic(tmp_path / "a.csv") as path:
                path.write_text("half")
                os._exit(0)  # ends without cleaning up, as after kill -9
        os.waitpid(child, 0)
        names.append(partial(tmp_path))
    assert [len(each) for each in names] == [1, 1]
    with atomic(tmp_path / "a.csv") as first:
        first.write_text("first")
        with atomic(tmp_path / "a.csv") as second:
            second.write_text("second")
        assert (tmp_path / "a.csv").read_text() == "second"
    assert (tmp_path / "a.csv").read_text() == "first"
    assert not partial(tmp_path)
