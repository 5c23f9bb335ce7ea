"""The cost of a profile is counted from its runs, and timed once for each model and machine."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from experiments.budget.budget import budgets, show, shown_difference
from experiments.budget.calibration import flops_per_token
from experiments.bundles.reference import Scatter
from experiments.models.settings import GPT2Settings
from experiments.plan.reading import load_profile
from experiments.runs.folder import ResultsFolder
from experiments.training.train import train


def test_tokens_and_operations_are_those_of_the_runs(tiny_plan, tmp_path):
    (found,) = budgets(tiny_plan(), ResultsFolder(tmp_path))
    assert found.runs == 4
    assert found.tokens == 4 * 12 * 4 * 16
    width, context = 16, 16
    matrices = 12 * width**2 + 300 * width  # attention, MLP and the embedding, which is the output
    norms = 3 * width
    assert found.parameters == matrices + norms + context * width
    per_token = 6 * (matrices + norms) + 12 * context * width
    assert found.flops == pytest.approx(found.tokens * per_token)
    assert found.is_timed
    assert found.hours > 0
    assert found.shows is None
    text = show([found], 2)
    assert "4 runs are left" in text
    assert "shows:" not in text


def test_finished_runs_cost_nothing(tiny_plan, tiny_corpus, tmp_path):
    planned, results = tiny_plan(), ResultsFolder(tmp_path)
    spec = planned[0].spec
    run = results.run(spec.path)
    train(spec, tiny_corpus, run.training.path)
    run.publish()
    (found,) = budgets(planned, results)
    assert found.runs == 3
    assert found.tokens == 3 * spec.training.tokens


def test_a_speed_is_measured_once(tiny_plan, tmp_path, monkeypatch):
    (first,) = budgets(tiny_plan(), ResultsFolder(tmp_path))
    monkeypatch.setattr("experiments.budget.calibration.seconds", None)  # a call would fail
    (second,) = budgets(tiny_plan(), ResultsFolder(tmp_path))
    assert first == second


def test_steps_that_take_long_are_not_timed(tmp_path, monkeypatch, tiny_plan):
    monkeypatch.setattr("experiments.budget.calibration._LONGEST_STEP", 1.0)
    monkeypatch.setattr("experiments.budget.calibration.gflops", lambda device: 10.0)
    (found,) = budgets(tiny_plan(), ResultsFolder(tmp_path))
    assert not found.is_timed
    assert found.hours == pytest.approx(found.flops / (0.4 * 10e9) / 3600)
    assert "≈" in show([found], 1)


def test_a_token_uses_some_of_the_experts():
    models = load_profile("paper").models
    # 30.5B parameters, of which 3.3B are active (arXiv:2505.09388, table 2).
    model = models["qwen3-30b-a3b"]
    active = (flops_per_token(model, 2048) - 12 * 2048 * model.width * model.layers) / 6
    embedding = model.vocab_size * model.width
    assert active + embedding == pytest.approx(3.3e9, rel=0.03)
    assert isinstance(models["gpt2-small"], GPT2Settings)
    operations = flops_per_token(models["gpt2-small"], 1024)
    # nanoGPT counts 6·N + 12·L·H·Q·T with N = 124M without positions.
    assert operations == pytest.approx(6 * 123.65e6 + 12 * 12 * 768 * 1024, rel=1e-3)


def test_the_shown_difference_is_found_with_the_power_that_it_says():
    deviation, df, seeds, rounds = 0.01, 40, 3, 4000
    true = shown_difference(Scatter(deviation, df), seeds)
    rng = np.random.default_rng(0)
    means = true + deviation * math.sqrt(2 / seeds) * rng.standard_normal(rounds)
    estimated = deviation * np.sqrt(rng.chisquare(df, rounds) / df)
    found = means / (estimated * math.sqrt(2 / seeds)) > stats.t.ppf(0.95, df)
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_the_scatter_is_the_references(tiny_plan, tmp_path):
    planned = tiny_plan()
    losses = {0: 3.0, 1: 3.04}
    for run in planned:
        spec = run.spec.model_dump(mode="json", by_alias=True)
        summary = {"final_val_loss": losses[run.spec.seed]}
        path = tmp_path / "reference" / "study" / "bundles" / f"{run.spec.path}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"spec": spec, "summary": summary}), encoding="utf-8")
    (found,) = budgets(planned, ResultsFolder(tmp_path))
    scatter = Scatter(float(np.std([*losses.values()], ddof=1)), 2)  # of two cells with two seeds
    assert found.shows == pytest.approx(shown_difference(scatter, 2))
    assert f"{found.shows:.3f} nats" in show([found], 1)
