"""Activation checkpointing and compilation change neither the gradients nor the names."""

import pandas as pd
import pytest
import torch

from experiments.models.blocks import recompute_activations
from experiments.models.build import build_model
from experiments.optimizers.settings import optimizer_spec
from experiments.plan.reading import load_profile
from experiments.training.train import train

MODELS = load_profile("laptop").models
ADAMW = load_profile("laptop").optimizers["adamw"]


def loss_and_gradients(settings, is_recomputed):
    torch.manual_seed(0)
    model = build_model(settings)
    if is_recomputed:
        recompute_activations(model)
    tokens = torch.randint(0, settings.vocab_size, (2, 17))
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return loss, {name: param.grad for name, param in model.named_parameters()}


@pytest.mark.parametrize("name", ["gpt2-pico", "qwen3-nano", "qwen3-moe-nano", "deepseek-nano"])
def test_checkpointing_gives_the_same_gradients_bit_for_bit(name):
    plain, recomputed = (loss_and_gradients(MODELS[name], is_on) for is_on in (False, True))
    torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


def test_checkpointing_keeps_fewer_activations():
    def kept(is_recomputed):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss_and_gradients(MODELS["gpt2-pico"], is_recomputed)
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_runs_with_either_setting_train_alike(tiny_plan, tiny_corpus, tmp_path):
    frames, names = [], []
    for is_on in ({"compile": True}, {"activation_checkpointing": True}, {}):
        spec = tiny_plan(steps=4, val_every=2, **is_on)[0].spec
        spec = spec.model_copy(update={"optimizer": optimizer_spec("adamw", ADAMW, spec.model)})
        folder = tmp_path / "".join(is_on)
        train(spec, tiny_corpus, folder)
        frame = pd.read_parquet(folder / "metrics.parquet")
        frames.append(frame.drop(columns=["step_seconds", "optimizer_seconds"]))
        names.append([*torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]])
    compiled, recomputed, plain = frames
    pd.testing.assert_frame_equal(compiled, plain, rtol=1e-4)
    pd.testing.assert_frame_equal(recomputed, plain, check_exact=True)
    assert names[0] == names[1] == names[2]
