"""The optimizer state of the published models is counted exactly, and matches table 1."""

import itertools
import math

import pandas as pd
import pytest
import torch

from experiments.models.build import build_model, model_on_meta
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.settings import optimizer_spec
from experiments.optimizers.state_bytes import state_bytes
from experiments.plan.profile import Layout
from experiments.plan.reading import load_profile
from experiments.studies.state_memory import _replicated, count_state, write_memory

REGISTRY = load_profile("paper")
OPTIMIZERS = [name for name, entry in REGISTRY.optimizers.items() if not entry.extra]
MODELS = ["gpt2-pico", "qwen3-nano", "qwen3-moe-nano", "deepseek-nano"]
# torch's Muon accepts matrices only, and the weights of experts are stacked.
REFUSED = [("qwen3-moe-nano", "muon-torch"), ("deepseek-nano", "muon-torch")]
ACCEPTED = [pair for pair in itertools.product(MODELS, OPTIMIZERS) if pair not in REFUSED]

# Optimizer state in MiB per device, from table 1 of arXiv:2605.10335.
TABLE_1 = {
    "deepseek-v2-lite": {"adamw": 429.0, "powerstep-int8": 55.3},
    "qwen3-30b-a3b": {"adamw": 864.0, "powerstep-int8": 111.4},
    "qwen3-32b": {"adamw": 976.5, "powerstep-int8": 125.9},
    "qwen3-235b-a22b": {"adamw": 6768.0, "powerstep-int8": 872.4},
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "memory.csv"
    write_memory(path)
    return pd.read_csv(path).set_index(["model", "optimizer"])


def test_table_1_is_met_to_a_tenth_of_a_mebibyte(memory):
    for model, row in TABLE_1.items():
        for optimizer, published in row.items():
            ours = round(memory.loc[(model, optimizer), "mib_per_device_as_paper"], 1)
            assert ours == pytest.approx(published, abs=0.1 + 1e-9), (model, optimizer)


def test_every_published_model_and_every_optimizer_is_listed(memory):
    assert set(memory.index.get_level_values("model")) == set(REGISTRY.by_model)
    assert len(REGISTRY.by_model) == 10
    assert len(memory) == 10 * len(OPTIMIZERS)


def test_the_whole_model_is_its_parameters_times_the_states_bytes(memory):
    for name in REGISTRY.by_model:
        for optimizer, size in {"adamw": 8, "powerstep": 4, "powerstep-int8": 1.03125}.items():
            row = memory.loc[(name, optimizer)]
            assert row["state_bytes"] == pytest.approx(row["parameters"] * size, rel=1e-5)
            by_device = row["state_bytes"] / row["devices"] / 2**20
            assert row["mib_per_device"] == pytest.approx(by_device)


@pytest.mark.parametrize(("name", "optimizer"), ACCEPTED)
def test_what_is_counted_without_memory_is_what_is_allocated_with_it(name, optimizer):
    settings = REGISTRY.models[name].model_copy(update={"vocab_size": 256, "layers": 3})
    spec = optimizer_spec(optimizer, REGISTRY.optimizers[optimizer], settings)
    counted = count_state(spec, model_on_meta(settings))
    model = build_model(settings)
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    allocated = build_optimizer(spec, model, lr=1e-3, weight_decay=0.1)
    allocated.step()
    assert sum(counted.values()) == state_bytes(allocated)


@pytest.mark.parametrize(("name", "optimizer"), REFUSED)
def test_the_reason_is_given_for_a_model_that_an_optimizer_refuses(name, optimizer):
    settings = REGISTRY.models[name]
    spec = optimizer_spec(optimizer, REGISTRY.optimizers[optimizer], settings)
    counted = count_state(spec, model_on_meta(settings))
    assert all(math.isnan(size) for size in counted.values())
    assert "Muon only supports 2D parameters" in counted.reason


def test_without_sharding_a_copy_of_the_model_holds_its_state_alone():
    # Experts have 60 of the 100 bytes, split over tp · pp · ep = 12 devices; the other 40 are split
    # over tp · pp = 4.
    layout = Layout(devices=24, tp=2, pp=2, ep=3)
    assert _replicated(100, 60, layout) == pytest.approx(40 / 4 + 60 / 12)
