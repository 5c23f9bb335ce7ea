"""A run gives the same metrics every time, even if it was killed and resumed."""

import fcntl
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.corpus.batches import TokenBatches
from experiments.corpus.tokens import read_tokens
from experiments.models.build import build_model
from experiments.models.gpt2 import GPT2
from experiments.optimizers.settings import optimizer_spec
from experiments.plan.reading import load_profile
from experiments.runs.metrics import COLUMNS
from experiments.training.lightning_module import LanguageModelRun
from experiments.training.train import train
from experiments.training.validation import mean_and_error
from powerstep import PowerStep
from tests.conftest import all_tokens, train_until_power_cut

TIMES = ["step_seconds", "optimizer_seconds"]
ENTRIES = {n: entry for n, entry in load_profile("laptop").optimizers.items() if not entry.extra}


@pytest.fixture
def spec(tiny_plan):
    """Return a function that makes the spec of a tiny run."""

    def make(optimizer="adamw", seed=0, args=None, class_path=None, **training):
        base = tiny_plan(**training)[0].spec
        made = optimizer_spec(optimizer, ENTRIES[optimizer], base.model)
        changes = {"args": args, "class_path": class_path}
        made = made.model_copy(update={k: v for k, v in changes.items() if v is not None})
        return base.model_copy(update={"optimizer": made, "seed": seed})

    return make


def metrics(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns=TIMES)


def test_the_same_spec_gives_the_same_metrics(spec, tiny_corpus, tmp_path):
    train(spec("powerstep-int8"), tiny_corpus, tmp_path / "a")
    train(spec("powerstep-int8"), tiny_corpus, tmp_path / "b")
    train(spec("powerstep-int8", seed=1), tiny_corpus, tmp_path / "c")
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "a"), metrics(tmp_path / "b"), check_exact=True
    )
    assert not metrics(tmp_path / "a").equals(metrics(tmp_path / "c"))


def test_gradients_are_deterministic_but_an_optimizer_may_not_be(
    spec, tiny_corpus, tmp_path, monkeypatch
):
    seen = set()

    def record(place):
        if torch.are_deterministic_algorithms_enabled():
            seen.add((place, torch.is_deterministic_algorithms_warn_only_enabled()))

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            record("forward")
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            record("backward")
            return grad

    forward, step = GPT2.forward, PowerStep.step
    monkeypatch.setattr(GPT2, "forward", lambda *args: Recorded.apply(forward(*args)))
    monkeypatch.setattr(PowerStep, "step", lambda *args: [record("step"), step(*args)][1])
    train(spec("powerstep", val_every=3), tiny_corpus, tmp_path)
    # The forward passes of validation are in the mode that only warns.
    assert seen == {("forward", False), ("forward", True), ("backward", False), ("step", True)}


def test_a_run_equals_a_plain_training_loop(spec, tiny_corpus, tmp_path):
    run = spec("adamw", micro_batch_size=2)
    summary = train(run, tiny_corpus, tmp_path)
    settings = run.training

    model = build_model(run.model, run.seed)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    batches = TokenBatches(tiny_corpus, settings.context)
    losses, norms = [], []
    for step in range(settings.steps):
        warm, rest = (step + 1) / 3, max(0, step + 1 - 3) / (settings.steps - 3)
        lr = 1e-2 * (warm if warm < 1 else 0.1 + 0.9 * (1 + math.cos(math.pi * rest)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = model(*batches.train(run.seed, step, settings.batch_size))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    val_tokens = all_tokens(read_tokens(tiny_corpus)[1])
    starts = np.linspace(0, len(val_tokens) - 17, settings.val_sequences).astype(int)
    windows = torch.tensor(np.stack([val_tokens[s : s + 17] for s in starts]))
    count = (len(val_tokens) - 1) // 16
    stream = torch.tensor(np.stack([val_tokens[16 * i : 16 * i + 17] for i in range(count)]))
    with torch.no_grad():
        val_loss = model(windows[:, :-1], windows[:, 1:]).item()
        final = [model(each[None, :-1], each[None, 1:]).item() for each in stream]

    frame = metrics(tmp_path)
    np.testing.assert_allclose(frame["train_loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(frame["grad_norm"], norms, rtol=1e-4)
    assert frame["lr"].iloc[-1] == pytest.approx(1e-3)
    assert summary["last_val_loss"] == pytest.approx(val_loss, rel=1e-5)
    assert frame["val_loss"].notna().sum() == settings.steps / settings.val_every
    assert summary["final_val_loss"] == pytest.approx(np.mean(final), rel=1e-5)
    assert frame["final_val_loss"].notna().tolist() == [False] * 11 + [True]


@pytest.mark.parametrize(("micro_batch_size", "block"), [(None, 4), (2, 2)])
def test_the_error_of_the_final_loss_is_over_blocks_of_windows(
    micro_batch_size, block, spec, tiny_corpus, tmp_path
):
    run = spec(micro_batch_size=micro_batch_size, final_val_sequences=12)
    summary = train(run, tiny_corpus, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    model = build_model(run.model)
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    )
    val_tokens = all_tokens(read_tokens(tiny_corpus)[1])
    last = (len(val_tokens) - 1) // 16 - 1
    losses = []
    for start in 16 * np.linspace(0, last, 12).astype(int):
        window = torch.tensor(val_tokens[None, start : start + 17])
        losses.append(model(window[:, :-1], window[:, 1:]).item())
    means = np.reshape(losses, (-1, block)).mean(axis=1)
    error = means.std(ddof=1) / math.sqrt(len(means))
    assert summary["final_val_loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert summary["final_val_error"] == pytest.approx(error, rel=1e-4)


def test_a_smaller_last_block_counts_by_its_size():
    losses, sizes = np.array([12.0, 13.5, 11.0, 2.5]), np.array([4.0, 4.0, 4.0, 1.0])
    mean, error = mean_and_error(torch.tensor(np.stack([losses, sizes])))
    ratio = losses.sum() / sizes.sum()
    squares = ((losses - ratio * sizes) ** 2).sum() / 3
    assert mean == pytest.approx(ratio, rel=1e-12)
    assert error == pytest.approx(math.sqrt(squares / 4) / sizes.mean(), rel=1e-12)
    assert math.isnan(mean_and_error(torch.tensor([[3.0], [1.0]], dtype=torch.float64))[1])


def test_the_update_is_measured(spec, tiny_corpus, tmp_path):
    # Sign momentum without weight decay moves every parameter by exactly the learning rate.
    run = spec("powerstep", args={"beta": 0.0, "gamma": 0.9}, weight_decay=0.0, log_every=3)
    train(run, tiny_corpus, tmp_path)
    frame = metrics(tmp_path)
    assert frame["step"].tolist() == [3, 4, 6, 8, 9, 12]
    # Embedding rows of tokens that no batch contained yet have no gradient and do not move.
    assert (frame["update_rms"] <= frame["lr"] * 1.001).all()
    assert (frame["update_rms"] > frame["lr"] * 0.5).all()


@pytest.mark.parametrize("optimizer", ENTRIES)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    optimizer, spec, tiny_corpus, tmp_path
):
    run = spec(optimizer)
    train(run, tiny_corpus, tmp_path / "whole")
    train_until_power_cut(run, tiny_corpus, tmp_path / "cut")
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 9  # one step past the checkpoint of step 8
    train(run, tiny_corpus, tmp_path / "cut")
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), check_exact=True
    )


def test_a_run_killed_with_sigkill_goes_on_as_if_nothing_had_happened(spec, tiny_corpus, tmp_path):
    run = spec("powerstep-int8", steps=600, val_every=20, warmup_steps=10)
    train(run, tiny_corpus, tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "experiments", "train", "--spec", run.model_dump_json()]
    command += ["--corpus", str(tiny_corpus), "--folder", str(folder), "--threads"]
    command += [str(torch.get_num_threads())]
    log = folder / "metrics.jsonl"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 360
    while not (folder / "last.ckpt").exists() or log.read_bytes().count(b"\n") < 50:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists()
    rows = log.read_text().count("\n")
    assert rows < 600
    with log.open("a") as file:
        file.write('{"step": 7')  # as after a kill in the middle of a write
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    pd.testing.assert_frame_equal(metrics(folder), metrics(tmp_path / "whole"), check_exact=True)


def test_a_run_that_was_killed_before_its_summary_gets_one(spec, tiny_corpus, tmp_path):
    run = spec("powerstep-int8")
    summary = train(run, tiny_corpus, tmp_path)
    whole = metrics(tmp_path)
    for name in ("summary.json", "metrics.parquet", "metrics.jsonl"):
        (tmp_path / name).unlink()
    again = train(run, tiny_corpus, tmp_path)
    pd.testing.assert_frame_equal(metrics(tmp_path), whole, check_exact=True)
    assert math.isfinite(summary["final_val_loss"])
    exact = ("status", "steps", "final_val_loss", "final_val_error", "state_bytes", "parameters")
    for field in exact:
        assert again[field] == summary[field]


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(spec, tiny_corpus, tmp_path):
    run = spec("adamw", args={"momentum": 0.0}, class_path="torch.optim.SGD", lr=1e30)
    summary = train(run, tiny_corpus, tmp_path)
    frame = metrics(tmp_path)
    assert summary["status"] == "diverged"
    assert summary["final_val_loss"] is None
    assert summary["steps"] == len(frame) < run.training.steps
    assert not math.isfinite(frame["train_loss"].iloc[-1])
    assert np.isfinite(frame["train_loss"].iloc[0])


def test_divergence_between_logged_steps_is_recorded_at_its_own_step(
    spec, tiny_corpus, tmp_path, monkeypatch
):
    infinite_from = 4  # step, counted from 0

    def damaged(self, seed, step, batch_size, original=TokenBatches.train):
        if step == infinite_from:
            for run in alive:
                next(run.model.parameters()).data.fill_(math.inf)
        return original(self, seed, step, batch_size)

    alive, init = [], LanguageModelRun.__init__
    monkeypatch.setattr(
        LanguageModelRun, "__init__", lambda self, *args: (init(self, *args), alive.append(self))[0]
    )
    monkeypatch.setattr(TokenBatches, "train", damaged)
    run = spec("adamw", log_every=3)
    summary = train(run, tiny_corpus, tmp_path)
    assert summary["status"] == "diverged"
    assert summary["steps"] == infinite_from + 1
    last = metrics(tmp_path).iloc[-1]
    assert last["step"] == infinite_from + 1
    assert math.isnan(last["train_loss"])
    assert last["tokens"] == (infinite_from + 1) * run.training.batch_size * run.training.context


def test_a_step_that_is_not_logged_reads_nothing_from_the_device(
    spec, tiny_corpus, tmp_path, monkeypatch
):
    reads = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name, **kwargs):
            reads.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    per_step, training_step = [], LanguageModelRun.training_step

    def watched(self, *args):
        before = len(reads)
        training_step(self, *args)
        per_step.append(reads[before:])

    monkeypatch.setattr(LanguageModelRun, "training_step", watched)
    run = spec("powerstep", log_every=3, steps=12, val_every=6)
    run = run.model_copy(update={"optimizer": run.optimizer.model_copy(update={"args": {}})})
    train(run, tiny_corpus, tmp_path)
    assert [bool(reads) for reads in per_step] == [False, False, True] * 4


def test_a_run_that_ends_worse_than_it_began_is_diverged(spec, tiny_corpus, tmp_path):
    summary = train(spec("powerstep", lr=3.0), tiny_corpus, tmp_path)
    assert summary["status"] == "diverged"
    assert summary["steps"] == 12
    assert metrics(tmp_path)["val_loss"].iloc[-1] > metrics(tmp_path)["train_loss"].iloc[0]


def test_the_summary_counts_what_the_optimizer_keeps(spec, tiny_corpus, tmp_path):
    run = spec("powerstep-int8")
    summary = train(run, tiny_corpus, tmp_path)
    sizes = [p.numel() for p in build_model(run.model).parameters()]
    assert summary["parameters"] == sum(sizes)
    assert summary["state_bytes"] == sum(n + 4 * math.ceil(n / 128) for n in sizes)
    assert summary["status"] == "completed"
    assert summary["tokens"] == 12 * 4 * 16
    assert summary["best_val_loss"] <= summary["last_val_loss"] < metrics(tmp_path).train_loss[0]
    assert summary["provenance"]["packages"]["torch"] == torch.__version__
    assert list(pd.read_parquet(tmp_path / "metrics.parquet").columns) == list(COLUMNS)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_two_processes_never_train_the_same_run(spec, tiny_corpus, tmp_path):
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=train, args=(spec(), tiny_corpus, tmp_path), daemon=True)
        waiting.start()
        waiting.join(timeout=1)
        assert waiting.is_alive()
        assert not (tmp_path / "spec.json").exists()
    waiting.join(timeout=180)
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lower_precision_trains_and_resumes(precision, spec, tiny_corpus, tmp_path):
    summary = train(spec("powerstep", precision=precision), tiny_corpus, tmp_path)
    assert summary["status"] == "completed"
    # The momentum is fp32, whatever the precision of the parameters.
    assert summary["state_bytes"] == 4 * summary["parameters"]
    checkpoint = torch.load(Path(tmp_path, "last.ckpt"), weights_only=True)
    state = checkpoint["optimizer_states"][0]["state"]
    assert {value["momentum"].dtype for value in state.values()} == {torch.float32}
