"""Initial weights depend on seed and name only, and have the distributions of the papers' code."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.models.build import build_model, model_on_meta
from experiments.models.initial import materialise
from experiments.plan.reading import load_profile

MODELS = load_profile("laptop").models
NAMES = ["gpt2-pico", "qwen3-nano", "qwen3-moe-nano", "deepseek-nano"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_made_part_by_part_is_the_same(name):
    whole = build_model(MODELS[name], seed=3)
    parts = model_on_meta(MODELS[name])
    blocks = "blocks" if name == "gpt2-pico" else "model.model.layers"
    torch.manual_seed(5)  # the global generator has no influence
    for part in (f"{blocks}.1.", f"{blocks}.0.", ""):
        materialise(parts, 3, part=part)
    for (key, ours), (other, theirs) in zip(
        whole.state_dict().items(), parts.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(ours, theirs)
    tokens = torch.randint(0, 512, (2, 16))
    assert whole(tokens, tokens) == parts(tokens, tokens)


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
