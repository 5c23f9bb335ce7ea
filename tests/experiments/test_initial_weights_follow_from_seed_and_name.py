"""Initial weights depend on seed and name only, and have the distributions of the papers' code."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.models.build import build_model
from experiments.models.settings import GPT2Settings, Qwen3Settings
from experiments.plan.reading import load_profile
from tests.experiments.shards_models import digest_of, loss_of

ROOT = Path(__file__).parent.parent.parent
MODELS = load_profile("laptop").models
NAMES = ["gpt2-pico", "qwen3-nano", "qwen3-moe-nano", "deepseek-nano"]


SEED = 3
# The largest matrices have more than the 2**20 numbers that are drawn at a time, and four processes
# cut the tables of embeddings unevenly.
LARGE = {
    "gpt2": GPT2Settings(
        family="gpt2", layers=2, width=64, heads=2, context=18, vocab_size=20_001
    ),
    "qwen3": Qwen3Settings(
        family="qwen3", layers=2, width=64, heads=4, kv_heads=2, head_dim=8, mlp_width=20_000,
        rope_theta=1e4, tie_embeddings=True, context=16, vocab_size=301,
    ),
}  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_makes_the_same_weights(processes, tmp_path):
    cases = [(name, 1) for name in LARGE] + ([("qwen3", 2)] if processes > 1 else [])
    jobs = [
        {"model": LARGE[name].model_dump(), "seed": SEED, "tensor_parallel": split}
        for name, split in cases
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "tests.experiments.shards_models"]
    done = subprocess.run(
        [*command, str(tmp_path / "jobs.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout, done.stderr[-3000:]  # gloo may abort a process that has printed
    for (name, _), made in zip(cases, json.loads(done.stdout), strict=True):
        whole = build_model(LARGE[name], SEED)
        assert made["digest"] == digest_of(whole)
        assert made["loss"] == pytest.approx(loss_of(whole), abs=1e-5)


def test_torchs_generator_has_no_influence():
    first = build_model(MODELS["gpt2-pico"], SEED)
    torch.rand(1)
    assert digest_of(build_model(MODELS["gpt2-pico"], SEED)) == digest_of(first)


def test_another_seed_or_name_gives_other_weights():
    one, other = (build_model(MODELS["gpt2-pico"], seed) for seed in (0, 1))
    first, second = one.blocks[0].attention, one.blocks[1].attention
    for weights in (
        (first.q_proj, first.k_proj),
        (first.q_proj, second.q_proj),
        (first.q_proj, other.blocks[0].attention.q_proj),
    ):
        pair = torch.stack([module.weight.flatten() for module in weights])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.1


def test_the_numbers_do_not_repeat_within_a_matrix():
    weight = build_model(LARGE["gpt2"]).token_embedding.weight
    assert len(weight.unique(dim=0)) == len(weight)


def test_gpt2_has_the_initial_weights_of_gpt2():
    model = build_model(MODELS["gpt2-pico"])
    for name, param in model.named_parameters():
        if param.ndim == 1:
            assert (param == 1).all()
            continue
        expected = 0.02 / math.sqrt(2 * len(model.blocks)) if "o_proj" in name else 0.02
        # The standard error of a standard deviation is a share of 1/√(2n).
        assert param.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * param.numel()))
        assert abs(param.mean().item()) < 5 * expected / math.sqrt(param.numel())


@pytest.mark.parametrize("name", NAMES[1:])
def test_others_have_the_distributions_of_transformers(name):
    ours = build_model(MODELS[name]).model
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ours.config.to_dict()))
    expected = dict(theirs.named_parameters())
    for key, param in ours.named_parameters():
        other = expected.pop(key)
        assert param.shape == other.shape
        if other.std() == 0 or other.numel() == 1:
            assert torch.equal(param, other), key
        else:
            assert param.std().item() == pytest.approx(
                other.std().item(), rel=10 / math.sqrt(2 * param.numel())
            ), key
    assert not expected
    buffers = dict(theirs.named_buffers())
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[key])
