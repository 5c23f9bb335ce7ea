"""The models have the sizes of GPT-2 and compute the same loss."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.models.build import build_model, model_on_meta
from experiments.models.settings import GPT2Settings
from experiments.plan.reading import load_profile

MODELS = load_profile("laptop").models
TINY = GPT2Settings(family="gpt2", layers=2, width=24, heads=3, context=16, vocab_size=50)


def parameters(settings):
    return sum(p.numel() for p in model_on_meta(settings).parameters())


@pytest.mark.parametrize(
    ("name", "released"), [("gpt2-small", 124_439_808), ("gpt2-medium", 354_823_168)]
)
def test_published_sizes_are_those_of_the_released_models(name, released):
    # OpenAI's released models have biases and 50257 tokens. nanoGPT drops the biases and pads the
    # vocabulary to 50304. Biases per layer: 9 · width in linear maps, 2 · width in layer norms.
    settings = MODELS[name]
    biases = settings.layers * (9 + 2) * settings.width + settings.width
    padding = (50304 - 50257) * settings.width
    assert parameters(settings) == released - biases + padding


@pytest.mark.parametrize(("name", "size"), [("gpt2-pico", 0.3e6), ("gpt2-nano", 1.3e6)])
def test_small_models_have_about_the_size_they_are_said_to_have(name, size):
    assert parameters(MODELS[name]) == pytest.approx(size, rel=0.1)


def test_the_loss_equals_that_of_transformers_gpt2():
    torch.manual_seed(0)
    ours = build_model(TINY)
    config = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=3, activation_function="gelu",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, param in theirs.named_parameters():
            if name.endswith("bias"):
                param.zero_()
        theirs.transformer.wte.weight.copy_(ours.token_embedding.weight)
        theirs.transformer.wpe.weight.copy_(ours.position_embedding.weight)
        theirs.transformer.ln_f.weight.copy_(ours.ln_f.weight)
        for our, their in zip(ours.blocks, theirs.transformer.h, strict=True):
            attention = our.attention
            qkv = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
            their.attn.c_attn.weight.copy_(torch.cat(qkv).T)
            their.attn.c_proj.weight.copy_(attention.o_proj.weight.T)
            their.mlp.c_fc.weight.copy_(our.mlp.i_proj.weight.T)
            their.mlp.c_proj.weight.copy_(our.mlp.o_proj.weight.T)
    tokens = torch.randint(0, 50, (3, 17))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    logits = theirs(inputs).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours(inputs, targets), expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_model_guesses_nearly_alike_for_every_token():
    torch.manual_seed(0)
    tokens, targets = torch.randint(0, 50, (2, 8, 16))
    assert build_model(TINY)(tokens, targets).item() == pytest.approx(math.log(50), abs=0.1)


def test_the_seed_decides_the_weights():
    weights = [build_model(TINY, seed).token_embedding.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
