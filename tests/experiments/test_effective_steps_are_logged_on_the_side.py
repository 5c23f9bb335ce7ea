"""A run that logs its effective steps trains as without, and logs what its formulas say."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from experiments.models.build import model_on_meta
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from experiments.runs.effective_steps import ALL, BINS, FILES, JOINT_BINS, bin_edges
from experiments.training.measuring.distributions import (
    comparison,
    histograms,
    rounding_errors,
)
from experiments.training.measuring.shadow import Shadow, layer_of
from experiments.training.train import train
from powerstep import PowerStep
from tests.conftest import profile_values, train_until_power_cut, write_profile

RNG = np.random.default_rng(0)
HEAVY = torch.from_numpy(RNG.standard_t(2, 3000).astype(np.float32) * 1e-4)


def test_bins_are_a_quarter_of_an_octave_of_numbers():
    edges = np.array(bin_edges())
    assert len(edges) == BINS
    finite = edges[np.isfinite(edges)]
    assert finite[4] == np.finfo(np.float32).smallest_normal
    assert finite[-1] == 1.75 * 2.0**127
    np.testing.assert_allclose(np.diff(finite[4:].reshape(-1, 4)[10]), 2.0 ** (10 - 126) / 4)


def test_a_histogram_counts_as_numpys():
    x = torch.cat([HEAVY, torch.zeros(7), torch.tensor([1e-40, -3e-39])])
    layers = {"q": slice(0, 1000), "norm": slice(1000, len(x))}
    rows = {row["layer"]: row for row in histograms(x, layers)}
    for layer, part in {ALL: slice(None), **layers}.items():
        magnitudes = x[part].double().abs().numpy()
        nonzero = magnitudes[magnitudes > 0]
        edges = np.array([*bin_edges()[:-4], np.inf])
        expected, _ = np.histogram(nonzero, edges)
        row = rows[layer]
        counts = np.zeros(BINS, dtype=int)
        counts[row["first_bin"] : row["first_bin"] + len(row["counts"])] = row["counts"]
        np.testing.assert_array_equal(counts[: len(expected)], expected)
        assert row["zeros"] == (magnitudes == 0).sum()
        assert row["count"] == len(magnitudes)
        assert row["denormals"] == ((nonzero > 0) & (nonzero < 2.0**-126)).sum()
        assert (row["smallest"], row["largest"]) == (nonzero.min(), nonzero.max())


def test_a_layer_of_zeros_has_no_counts():
    row = histograms(torch.zeros(5), {"position": slice(0, 5)})[1]
    assert (row["zeros"], row["count"], row["counts"]) == (5, 5, [])


def test_effective_steps_are_compared_as_by_scipy():
    m, v = HEAVY[:2000], HEAVY[:2000].square() * (1 + 0.5 * torch.rand(2000))
    denominator = v.sqrt() + 1e-8
    row = comparison(m, denominator, m / denominator, gamma=0.9, beta=0.1)
    a, b = m.abs().double().numpy() ** -0.9 / 0.1, 1 / denominator.double().numpy()
    assert row["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)
    ratio = np.log10(a / b)
    assert row["log_ratio_iqr"] == pytest.approx(stats.iqr(ratio), rel=1e-4)
    assert row["log_ratio_median"] == pytest.approx(np.median(ratio), rel=1e-4)
    ours = np.sign(m.numpy()) * np.abs(m.double().numpy()) ** 0.1
    adams = (m / denominator).double().numpy()
    cosine = ours @ adams / np.linalg.norm(ours) / np.linalg.norm(adams)
    assert row["cosine"] == pytest.approx(cosine, rel=1e-5)
    assert sum(row["counts"]) == 2000
    # The rows are |m|, the columns Adam's denominator, so the means over each are those of log2.
    counts = np.array(row["counts"]).reshape(JOINT_BINS, JOINT_BINS)
    centre = -32 + 0.5 * (np.arange(JOINT_BINS) + 0.5)
    assert counts.sum(axis=1) @ centre / 2000 == pytest.approx(
        m.abs().log2().mean().item(), abs=0.05
    )


def test_rounding_errors_are_those_of_numpy():
    exact = HEAVY.double().numpy()
    blocks = np.pad(exact, (0, -len(exact) % 128)).reshape(-1, 128)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    codes = np.round(blocks / scale * 7)
    kept = (codes * scale / 7).ravel()[: len(exact)]
    row = rounding_errors(HEAVY, torch.from_numpy(kept).float(), beta=0.1)
    u, v = (np.sign(x) * np.abs(x) ** 0.1 for x in (exact, kept))
    assert row["m_error"] == pytest.approx(
        np.linalg.norm(kept - exact) / np.linalg.norm(exact), rel=1e-4
    )
    assert row["u_error"] == pytest.approx(np.linalg.norm(v - u) / np.linalg.norm(u), rel=1e-4)
    assert row["zero_codes"] == pytest.approx((kept == 0).mean())
    assert row["sign_flips"] == 0
    expected = np.linalg.norm(v - u) / np.linalg.norm(kept - exact)
    assert row["amplification"] == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def stepped():
    """Return a shadow and the optimizers that saw the same gradients, after 30 steps."""
    torch.manual_seed(0)
    shapes = {"q_proj.weight": (16, 16), "norm.weight": (9,), "mlp.i_proj.weight": (40, 8)}
    names, params = [*shapes], [nn.Parameter(torch.randn(shape)) for shape in shapes.values()]
    shadow = Shadow(zip(names, params, strict=True), gamma=0.9)
    optimizers = {
        "adamw": torch.optim.AdamW(params, lr=0.0, betas=(0.9, 0.95), eps=1e-8),
        "powerstep": PowerStep(params, lr=0.0),
        "int8": PowerStep(params, lr=0.0, state_precision="int8"),
    }
    shadow.keep_rounded()
    for _ in range(30):
        for param in params:
            param.grad = torch.randn_like(param) * torch.randn_like(param)
        for optimizer in optimizers.values():
            optimizer.step()
        shadow.update()
    return shadow, optimizers, params


def flat(states):
    return torch.cat([state.flatten() for state in states])


def test_the_shadow_has_the_states_of_the_optimizers_on_the_same_gradients(stepped):
    shadow, optimizers, params = stepped
    # The shadow's layers are in the order of the names above.
    adam = [optimizers["adamw"].state[param] for param in params]
    torch.testing.assert_close(shadow.exp_avg, flat(each["exp_avg"] for each in adam))
    denominator = flat(each["exp_avg_sq"] for each in adam) / (1 - 0.95**30)
    torch.testing.assert_close(shadow.adam_denominator, denominator.sqrt() + 1e-8)
    moved = flat(each["exp_avg"] for each in adam) / (1 - 0.9**30) / (denominator.sqrt() + 1e-8)
    torch.testing.assert_close(shadow.adam_update, moved)
    momentum = flat(optimizers["powerstep"].state[param]["momentum"] for param in params)
    torch.testing.assert_close(shadow.momentum, momentum)


def test_the_rounded_shadow_is_the_state_of_powerstep_int8(stepped):
    shadow, optimizers, params = stepped
    state = [optimizers["int8"].state_dict()["state"][i] for i in range(len(params))]
    kept = shadow.kept["int8"]
    start = 0
    for param, each in zip(params, state, strict=True):
        codes, scales = each["momentum_codes"], each["momentum_scales"]
        values = codes.flatten().float() * scales.repeat_interleave(128)[: param.numel()] / 127
        torch.testing.assert_close(kept[start : start + param.numel()], values)
        start += param.numel()


@pytest.mark.parametrize("name", ["gpt2-pico", "qwen3-nano", "qwen3-moe-nano", "deepseek-nano"])
def test_every_parameter_has_a_type_of_layer(name):
    model = model_on_meta(load_profile("laptop").models[name])
    layers = {param: layer_of(param) for param, _ in model.named_parameters()}
    assert "other" not in layers.values()
    of_attention = next(name for name in layers if "att" in name and "o_proj" in name)
    assert layers[of_attention] == "attention out"
    assert {layer for name, layer in layers.items() if "norm" in name or "ln_" in name} == {"norm"}


def files(folder):
    return {name: pd.read_parquet(folder / name) for name in FILES}


@pytest.fixture
def specs(tiny_plan):
    """Return the specs of AdamW and PowerStep int8 that log, and the same that do not."""
    return {
        logs: [run.spec for run in tiny_plan(log_effective_steps=logs) if run.spec.seed == 0]
        for logs in (True, False)
    }


def test_training_is_the_same_as_without(specs, tiny_corpus, tmp_path):
    for logging, silent in zip(specs[True], specs[False], strict=True):
        name = logging.optimizer.name
        assert logging.path != silent.path
        for folder, spec in ((f"{name}_logging", logging), (name, silent)):
            train(spec, tiny_corpus, tmp_path / folder)
        logged, plain = (
            pd.read_parquet(tmp_path / folder / "metrics.parquet").drop(
                columns=["step_seconds", "optimizer_seconds"]
            )
            for folder in (f"{name}_logging", name)
        )
        pd.testing.assert_frame_equal(logged, plain, check_exact=True)
        assert not any((tmp_path / name / file).exists() for file in FILES)


def test_a_resumed_run_logs_the_same(specs, tiny_corpus, tmp_path):
    spec = specs[True][1]
    train(spec, tiny_corpus, tmp_path / "whole")
    train_until_power_cut(spec, tiny_corpus, tmp_path / "cut")
    train(spec, tiny_corpus, tmp_path / "cut")
    for name, frame in files(tmp_path / "whole").items():
        assert len(frame)
        pd.testing.assert_frame_equal(files(tmp_path / "cut")[name], frame, check_exact=True)


def test_it_logs_every_layer_at_powers_of_two_and_often(tiny_plan, tiny_corpus, tmp_path):
    spec = tiny_plan(log_effective_steps=True, steps=120, val_every=60)[0].spec
    train(spec, tiny_corpus, tmp_path)
    found = files(tmp_path)
    histogram = found["effective_steps.parquet"]
    expected = {1, 2, 4, 8, 16, 32, 64, *range(3, 121, 3)}
    assert set(histogram["step"]) == expected | {12, 60, 120}
    assert histogram.groupby(["step", "quantity", "layer"]).size().eq(1).all()
    whole = histogram[histogram["layer"] == ALL]
    assert (whole["count"] == whole["count"].iloc[0]).all()
    parts = histogram[histogram["layer"] != ALL].groupby(["step", "quantity"])["count"].sum()
    assert (parts == whole["count"].iloc[0]).all()
    assert set(found["effective_steps_compared.parquet"]["step"]) == {12, 60, 120}
    rounding = found["rounding.parquet"].set_index(["step", "layer", "format", "accumulated"])
    errors = rounding.xs((120, ALL), level=("step", "layer"))["m_error"]
    # Fewer bits lose more, and errors that are kept add up.
    assert errors["bf16", False] < errors["int8", False] < errors["int4", False]
    assert errors["int4", False] < errors["int4", True]


def test_an_experiment_says_whether_its_runs_log(text_file, tmp_path):
    values = profile_values(text_file)
    values["experiments"]["effective_steps"] = values["experiments"]["comparison"] | {
        "log_effective_steps": True
    }
    planned = plan(load_profile(str(write_profile(tmp_path / "tiny.yaml", values))))
    assert {run.experiment for run in planned if run.spec.training.log_effective_steps} == {
        "effective_steps"
    }
    # Names of runs that do not log are those from before the setting existed.
    silent = next(run.spec for run in planned if run.experiment == "comparison")
    assert "log_effective_steps" not in silent.model_dump()["training"]
