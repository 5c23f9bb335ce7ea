"""Groups of parameters by role or name have their own class, arguments, lr and weight decay."""

import math
from copy import deepcopy

import pandas as pd
import pytest
import torch

from experiments.corpus.batches import TokenBatches
from experiments.models.build import build_model, model_on_meta
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.composite import CompositeOptimizer
from experiments.optimizers.exact_loading import load_exactly
from experiments.optimizers.grouping import roles
from experiments.optimizers.settings import OptimizerSettings, optimizer_spec
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError
from experiments.training.train import train
from tests.conftest import profile_values, train_until_power_cut, write_profile

MODELS = load_profile("smoke").models
REST = ["embeddings", "output", "norms", "biases"]
TIMES = ["step_seconds", "optimizer_seconds"]
MUON = {"roles": ["hidden_matrices"], "class": "torch.optim.Muon", "args": {"momentum": 0.9}}
ADAMW = {
    "roles": REST,
    "class": "torch.optim.AdamW",
    "args": {"betas": [0.9, 0.95]},
    "lr_factor": 0.25,
    "weight_decay": 0.02,
}
PAIR = {"groups": [MUON, ADAMW]}


def spec_of(entry, model="gpt2-pico"):
    values = {"label": "mine", "source": "a test"} | entry
    return optimizer_spec("mine", OptimizerSettings.model_validate(values), MODELS[model])


def built(entry, model="gpt2-pico", lr=0.5, weight_decay=0.1):
    """Return a model on the meta device and its optimizer."""
    module = model_on_meta(MODELS[model])
    return module, build_optimizer(spec_of(entry, model), module, lr, weight_decay)


def names_of(model, group):
    names = {param: name for name, param in model.named_parameters()}
    return {names[param] for param in group["params"]}


@pytest.fixture
def run_of(tmp_path, text_file):
    """Return a function that plans a tiny run with an entry of optimizers.yaml."""

    def make(entry, **training):
        values = profile_values(text_file, **training)
        values["optimizers"] = {"mine": {"label": "mine", "source": "a test"} | entry}
        values["experiments"]["comparison"] |= {"optimizers": ["mine"], "seeds": [0]}
        path = write_profile(tmp_path / "mine.yaml", values)
        return plan(load_profile(str(path)))[0].spec

    return make


def metrics(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns=TIMES)


# -- training


def test_muon_and_adamw_as_one_equal_two_optimizers_stepped_by_hand(run_of, tiny_corpus, tmp_path):
    run = run_of(PAIR)
    train(run, tiny_corpus, tmp_path)
    settings = run.training
    model = build_model(run.model, run.seed)
    hidden = [p for name, p in model.named_parameters() if "_proj" in name]
    others = [p for name, p in model.named_parameters() if "_proj" not in name]
    muon = torch.optim.Muon(hidden, momentum=0.9, weight_decay=0.1)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.02)
    batches = TokenBatches(tiny_corpus, settings.context)
    losses = []
    for step in range(settings.steps):
        warm, rest = (step + 1) / 3, max(0, step + 1 - 3) / (settings.steps - 3)
        lr = 1e-2 * (warm if warm < 1 else 0.1 + 0.9 * (1 + math.cos(math.pi * rest)) / 2)
        for optimizer, factor in ((muon, 1), (adamw, 0.25)):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = lr * factor
        loss = model(*batches.train(run.seed, step, settings.batch_size))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adamw.step()
        losses.append(loss.item())
    frame = metrics(tmp_path)
    assert frame["train_loss"].tolist() == pytest.approx(losses, abs=1e-5)
    assert frame["lr"].iloc[-1] == pytest.approx(1e-3)  # the schedule, without a group's factor


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_an_interrupted_pair_goes_on_as_if_nothing_had_happened(
    run_of, tiny_corpus, tmp_path, precision
):
    int8 = {"args": {"state_precision": "int8"}, "class": "powerstep.PowerStep", "roles": REST}
    run = run_of({"groups": [MUON, int8]}, precision=precision)
    train(run, tiny_corpus, tmp_path / "whole")
    train_until_power_cut(run, tiny_corpus, tmp_path / "cut")
    train(run, tiny_corpus, tmp_path / "cut")
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), check_exact=True
    )


def test_an_error_of_a_part_names_its_line(run_of, tiny_corpus, tmp_path):
    broken = {"class": f"{__name__}.Broken", "roles": REST}
    run = run_of({"groups": [MUON, broken]})
    message = r"the step of torch.optim.Muon and .*Broken raised ValueError: no \(test_groups.*line"
    with pytest.raises(RuntimeError, match=message):
        train(run, tiny_corpus, tmp_path)


class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise ValueError("no")


# -- groups


def test_roles_are_those_of_gpt2():
    found = roles(model_on_meta(MODELS["gpt2-pico"]))
    assert {name for name, role in found.items() if role == "embeddings"} == {
        "token_embedding.weight",
        "position_embedding.weight",
    }
    assert {name.split(".")[-2] for name, role in found.items() if role == "norms"} == {
        *("ln_1", "ln_2", "ln_f")
    }
    assert all("_proj." in n for n, role in found.items() if role == "hidden_matrices")
    assert set(found.values()) == {"embeddings", "norms", "hidden_matrices"}  # no biases; tied


@pytest.mark.parametrize("model", ["qwen3-nano", "qwen3-moe-nano", "deepseek-nano"])
def test_roles_are_those_of_other_families(model):
    module = model_on_meta(MODELS[model])
    found = roles(module)
    assert found.keys() == dict(module.named_parameters()).keys()
    for name, param in module.named_parameters():
        parts = name.split(".")
        expected = (
            "embeddings"
            if "embed_tokens" in parts
            else "output"
            if "lm_head" in parts
            else "norms"
            if "norm" in parts[-2]
            else "hidden_matrices"
        )
        assert found[name] == expected, name
        assert param.ndim >= 2 or expected == "norms"


def test_a_bias_is_a_bias_but_a_norms_bias_is_a_norms():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    assert roles(module) == {
        "0.weight": "hidden_matrices",
        "0.bias": "biases",
        "1.weight": "norms",
        "1.bias": "norms",
    }


def test_groups_of_one_class_are_its_parameter_groups():
    entry = {
        "class": "torch.optim.SGD",
        "args": {"momentum": 0.9},
        "groups": [
            {"names": r"_embedding\.", "lr_factor": 2.0, "args": {"momentum": 0.5}},
            {"names": r"^(?!.*_embedding)", "weight_decay": 0.3},
        ],
    }
    model, optimizer = built(entry)
    assert type(optimizer) is torch.optim.SGD
    first, second = optimizer.param_groups
    assert names_of(model, first) == {"token_embedding.weight", "position_embedding.weight"}
    assert (first["lr"], first["momentum"], first["weight_decay"]) == (1.0, 0.5, 0.1)
    assert (second["lr"], second["momentum"], second["weight_decay"]) == (0.5, 0.9, 0.3)
    assert len(second["params"]) == len([*model.parameters()]) - 2


def test_vectors_of_a_group_do_not_decay_unless_it_says_so():
    model, optimizer = built({"groups": [MUON, ADAMW | {"weight_decay": None}]})
    matrices, embeddings, vectors = optimizer.param_groups
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert all(param.ndim == 1 for param in vectors["params"])
    assert names_of(model, embeddings) == {"token_embedding.weight", "position_embedding.weight"}
    assert len(matrices["params"]) == len(
        [n for n in dict(model.named_parameters()) if "_proj" in n]
    )


def test_a_class_that_makes_its_own_groups_gets_its_group_alone():
    mini = {
        "class": "experiments.optimizers.adam_mini.AdamMini",
        "args": {"head_rows": "$model.head_rows"},
        "roles": ["hidden_matrices"],
        "lr_factor": 0.5,
    }
    model, optimizer = built({"groups": [mini, ADAMW]})
    part = optimizer.parts[0]
    assert {name for g in part.param_groups for name in names_of(model, g)} == {
        name for name, role in roles(model).items() if role == "hidden_matrices"
    }
    assert {group["lr"] for group in part.param_groups} == {0.25}


def test_the_names_of_runs_depend_on_groups(run_of):
    paths = {
        run_of({"groups": [MUON, ADAMW | change]}).path
        for change in ({}, {"lr_factor": 0.5}, {"weight_decay": 0.0}, {"args": {}})
    }
    assert len(paths) == 4


# -- a composite


@pytest.fixture
def pair():
    """Return a function that makes two parameters and a composite optimizer of them."""

    def make():
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
        parts = [torch.optim.SGD(params[:1], momentum=0.9), torch.optim.AdamW(params[1:])]
        for part in parts:
            load_exactly(part)
        return params, CompositeOptimizer(parts)

    return make


def step(params, optimizer, times):
    for _ in range(times):
        for param in params:
            param.grad = param.detach().sin()
        optimizer.step()


def test_a_composite_has_the_groups_and_states_of_its_parts(pair):
    params, optimizer = pair()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    step(params, optimizer, 1)
    assert set(optimizer.state[params[0]]) == {"momentum_buffer"}
    assert set(optimizer.state[params[1]]) == {"step", "exp_avg", "exp_avg_sq"}
    assert optimizer.state_dict()["param_groups"][1]["params"] == [1]
    scheduler.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [5e-4, 5e-4]


def test_a_loaded_composite_steps_and_follows_its_schedule(pair):
    params, optimizer = pair()
    step(params, optimizer, 2)
    saved = deepcopy({"params": params, "optimizer": optimizer.state_dict()})
    others, loaded = pair()
    loaded.load_state_dict(saved["optimizer"])
    for param, value in zip(others, saved["params"], strict=True):
        param.data.copy_(value)
    for composite in (optimizer, loaded):
        for group in composite.param_groups:  # as schedulers do
            group["lr"] = 0.1
    step(params, optimizer, 2)
    step(others, loaded, 2)
    for param, other in zip(params, others, strict=True):
        assert torch.equal(param, other)
    assert loaded.state[others[1]]["step"] == 4


def test_a_composite_refuses_the_state_of_other_groups(pair):
    _, optimizer = pair()
    state = optimizer.state_dict()
    state["param_groups"].pop()
    with pytest.raises(ValueError, match="the state has 1 parameter groups, but the optimizer 2"):
        optimizer.load_state_dict(state)


# -- bad input


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([MUON], r"groups match none of token_embedding.weight, .* and \d+ more: each parameter"),
        (
            [MUON, ADAMW, {"names": "q_proj", "class": "torch.optim.SGD"}],
            r"groups.2 matches blocks.0.attention.q_proj.weight, and so does groups.0: each",
        ),
        (
            [MUON, ADAMW, {"names": "no_such", "class": "torch.optim.SGD"}],
            r"groups.2 matches no parameter of the model, which has the roles embeddings, norms,",
        ),
        (
            [MUON | {"args": {"momentun": 0.9}}, ADAMW],
            r"groups.0.args has 'momentun', but torch.optim.Muon accepts only lr, weight_decay",
        ),
        ([MUON | {"args": {"lr": 0.9}}, ADAMW], "groups.0.args has 'lr', but that is a training"),
        (
            [MUON | {"roles": ["hidden_matrices", *REST]}],
            r"groups.0.args: torch.optim.Muon refuses them: ValueError: .*only supports 2D",
        ),
        (
            [MUON | {"class": "torch.optim.Moon"}, ADAMW],
            "groups.0.class is 'torch.optim.Moon', but",
        ),
    ],
)
def test_groups_that_do_not_fit_the_model_are_refused(groups, message):
    with pytest.raises(ConfigError, match=f"^optimizers.mine.{message}"):
        built({"groups": groups})


@pytest.mark.parametrize("option", ["momentun", "use_muon"])
def test_a_key_that_the_class_never_reads_is_refused(option):
    group = {"roles": ["hidden_matrices", *REST], "args": {option: 1}}
    entry = {"class": "torch.optim.SGD", "groups": [group]}
    with pytest.raises(ConfigError, match=f"groups.0.args has '{option}', but torch.optim.SGD acc"):
        built(entry)
    _, optimizer = built({"class": f"{__name__}.ReadsUseMuon", "groups": [group]})
    assert optimizer.param_groups[0][option] == 1


class ReadsUseMuon(torch.optim.SGD):
    def step(self, closure=None):
        return [group["use_muon"] or group["momentun"] for group in self.param_groups]


def test_a_class_that_makes_its_own_groups_is_refused_several():
    entry = {
        "class": "experiments.optimizers.adam_mini.AdamMini",
        "args": {"head_rows": "$model.head_rows"},
        "groups": [{"roles": ["hidden_matrices"]}, {"roles": REST}],
    }
    with pytest.raises(
        ConfigError, match=r"groups: .*AdamMini takes named_parameters and makes its"
    ):
        built(entry)


@pytest.mark.parametrize(
    ("entry", "line", "message"),
    [
        (
            {"groups": [{"class": "torch.optim.SGD"}]},
            "- class",
            "should have either roles or names",
        ),
        ({"groups": [MUON | {"names": "x"}]}, "- args", "should have either roles or names"),
        (
            {"groups": [{"roles": ["heads"]}]},
            "- heads",
            "roles.0 is 'heads', but it should be 'hid",
        ),
        ({"groups": [{"names": "(x"}]}, "names:", "is '.x', but it should be a regular expression"),
        ({"groups": [MUON, {"roles": REST}]}, "mine:", "class is missing"),
        (PAIR | {"class": "torch.optim.SGD"}, "class:", "but every group has its own class"),
        (PAIR | {"args": {"momentum": 0.9}}, "args:", "need a class of the entry"),
        (PAIR | {"closure": True}, "closure:", "must be false where groups have their own class"),
        ({}, "mine:", "class is missing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_line(
    run_of, tmp_path, entry, line, message
):
    with pytest.raises(ConfigError, match=message) as raised:
        run_of(entry)
    number = int(str(raised.value).split("line ")[1].split(":")[0])
    assert line in (tmp_path / "mine.yaml").read_text().splitlines()[number - 1]
