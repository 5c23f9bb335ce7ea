"""`make bench-train` trains the same model in its plain loop as in our runs."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.models.build import build_model
from experiments.models.settings import GPT2Settings
from experiments.plan.grid import plan
from experiments.plan.reading import CONFIG_DIR, load_profile
from experiments.studies import bench_train
from experiments.studies.plain_training import PlainGPT2, train_plainly

MODEL = GPT2Settings(family="gpt2", layers=2, width=32, heads=4, context=16, vocab_size=50)
NAMES = {  # of the plain model, and ours
    r"^tokens": "token_embedding",
    r"^positions": "position_embedding",
    r"^ln\.": "ln_f.",
    r"\.o_proj": ".attention.o_proj",
    r"mlp\.0": "mlp.i_proj",
    r"mlp\.2": "mlp.o_proj",
}


def our_tensor(name, ours):
    if "qkv_proj" in name:
        prefix = name.removesuffix("qkv_proj.weight")
        return torch.cat([ours[f"{prefix}attention.{x}_proj.weight"] for x in "qkv"])
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return ours[name]


def test_the_models_have_the_same_loss_for_the_same_weights():
    ours, plain = build_model(MODEL), PlainGPT2(MODEL)
    weights = ours.state_dict()
    plain.load_state_dict({name: our_tensor(name, weights) for name in plain.state_dict()})
    tokens = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(0))
    losses = [model(tokens[:, :-1], tokens[:, 1:]) for model in (ours, plain)]
    torch.testing.assert_close(*losses)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("name", bench_train.PROFILES.values())
def test_its_profiles_have_both_optimizers_and_several_intervals(name):
    specs = [run.spec for run in plan(load_profile(str(CONFIG_DIR / "studies" / name)))]
    assert {spec.optimizer.name for spec in specs} == {"adamw", "powerstep"}
    assert all(spec.training.steps // spec.training.log_every >= 4 for spec in specs)


def test_the_plain_loop_returns_the_time_before_each_step():
    (run, *_) = plan(load_profile(str(CONFIG_DIR / "studies" / "bench-train.yaml")))
    training = run.spec.training.model_copy(update={"context": 8, "batch_size": 2})
    times = train_plainly(MODEL, training, np.arange(500) % 50)
    assert len(times) == training.steps
    assert times == sorted(times)


def test_ratios_are_to_the_plain_loop_of_the_same_round():
    sides = bench_train.SIDES["cpu"]
    plain, *others = [side.label for side in sides]
    rounds = [
        {plain: 100.0} | dict.fromkeys(others, 150.0),
        {plain: 10.0} | dict.fromkeys(others, 30.0),
    ]
    table = bench_train.statistics(pd.DataFrame(rounds), sides, cores=2).set_index("side")
    assert table.loc[plain, ["ratio", "ratio_low", "ratio_high"]].tolist() == [1, 1, 1]
    assert table.loc[others[-1], ["ratio", "tokens_per_second"]].tolist() == [2.25, 90]
    assert table.loc[others[-1], ["runs", "threads"]].tolist() == [2, 1]
