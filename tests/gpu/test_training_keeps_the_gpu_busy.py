"""Training on a GPU waits for it at logged steps only, resumes exactly, and runs smoke."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.models.build import build_model
from experiments.models.determinism import deterministic
from experiments.models.settings import GPT2Settings
from experiments.optimizers.settings import optimizer_spec
from experiments.plan.reading import load_profile
from experiments.training.lightning_module import LanguageModelRun
from experiments.training.train import train
from tests.conftest import train_until_power_cut

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
ROOT = Path(__file__).parents[2]
TIMES = ["step_seconds", "optimizer_seconds"]


@pytest.fixture
def spec(tiny_plan):
    """Return a function that makes the spec of a tiny run."""

    def make(optimizer="powerstep", **training):
        base = tiny_plan(**training)[0].spec
        entry = load_profile("laptop").optimizers[optimizer]
        made = optimizer_spec(optimizer, entry, base.model)
        return base.model_copy(update={"optimizer": made})

    return make


@pytest.mark.parametrize("optimizer", ["powerstep", "powerstep-int8", "adams", "adamw"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_that_is_not_logged_waits_for_nothing(
    spec, tiny_corpus, tmp_path, monkeypatch, optimizer, precision
):
    training_step = LanguageModelRun.training_step

    def watched(self, batch, index):
        is_watched = index > 2 and (index + 1) % 3  # the first steps compile and allocate
        torch.cuda.set_sync_debug_mode("error" if is_watched else "default")
        try:
            training_step(self, batch, index)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(LanguageModelRun, "training_step", watched)
    run = spec(optimizer, log_every=3, val_every=6, precision=precision)
    assert train(run, tiny_corpus, tmp_path)["status"] == "completed"


@pytest.mark.parametrize("enabled", [False, True])
def test_gradients_of_long_sequences_are_the_same_each_time(enabled):
    model = build_model(
        GPT2Settings(family="gpt2", layers=2, width=256, heads=4, context=1024, vocab_size=512),
        device="cuda",
    )
    tokens = torch.randint(512, (8, 1025), generator=torch.Generator().manual_seed(0)).cuda()
    grads = []
    for _ in range(3):
        model.zero_grad()
        with deterministic(), torch.autocast("cuda", torch.bfloat16, enabled):
            model(tokens[:, :-1], tokens[:, 1:]).backward()
        grads.append([param.grad for param in model.parameters()])
    for others in grads[1:]:
        assert all(torch.equal(*pair) for pair in zip(grads[0], others, strict=True))


def test_a_resumed_run_gives_the_same_metrics(spec, tiny_corpus, tmp_path):
    train(spec(), tiny_corpus, tmp_path / "whole")
    train_until_power_cut(spec(), tiny_corpus, tmp_path / "cut")
    train(spec(), tiny_corpus, tmp_path / "cut")
    frames = [
        pd.read_parquet(tmp_path / name / "metrics.parquet").drop(columns=TIMES)
        for name in ("whole", "cut")
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_the_profile_smoke_runs_on_the_gpu(tmp_path):
    for name in ("experiments", "analysis", "powerstep", "profiles", "Snakefile"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    command = ["snakemake", "--profile", "profiles/default", "--config", "profile=smoke"]
    command += ["runs_at_once=4"]  # they share a GPU
    subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=os.environ, check=True)
    summaries = [*tmp_path.glob("results/runs/*/*/*/summary.json")]
    assert summaries
    for path in summaries:
        summary = json.loads(path.read_text())
        assert summary["status"] in ("completed", "diverged"), path
        assert summary["provenance"]["accelerator"] is not None
