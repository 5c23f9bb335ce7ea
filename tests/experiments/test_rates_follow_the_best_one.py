"""Sweeps lie around the expected best rate, and grow where the best rate is the outermost."""

import json
import math

import pytest

from experiments.launch.status import status
from experiments.optimizers.settings import BestRate
from experiments.plan.experiment import Experiment
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from experiments.plan.sweeps.following import before, needed_rows
from experiments.plan.sweeps.ladder import check_ladder
from experiments.plan.sweeps.rates import is_needed, peak_rates
from experiments.runs.folder import ResultsFolder
from experiments.settings import ConfigError, parse
from tests.conftest import profile_values, write_profile

GRID = {"models": ["tiny"], "optimizers": ["adamw"], "seeds": [0]}


def experiment(**values):
    return parse(Experiment, GRID | values)


def grid_of(**values):
    return experiment(**values).grid("tiny", "adamw")


def of_extension(rates, extension):
    return [lr for lr, of in rates if of == extension]


@pytest.mark.parametrize("expected", [0.0041, 0.004, 0.0039, 0.0029, 0.0055])
def test_rates_are_factors_of_two_around_the_expected_best(expected):
    rates = peak_rates(grid_of(rates=5, extend=2), 1.0, expected)
    assert of_extension(rates, 0) == [0.001, 0.002, 0.004, 0.008, 0.016]
    assert [of_extension(rates, k) for k in (-2, -1, 1, 2)] == [
        [0.00025],
        [0.0005],
        [0.032],
        [0.064],
    ]


def test_rates_of_a_list_never_grow():
    rates = peak_rates(grid_of(lr=[1e-3, 2e-3]), 1.0, 1.0)
    assert rates == [(1e-3, 0), (2e-3, 0)]
    assert peak_rates(grid_of(), 0.5, 1.0) == [(0.5, 0)]


def test_the_expected_best_rate_changes_with_the_width():
    assert BestRate(lr=0.016, width=32, exponent=-1.0).at(64) == pytest.approx(0.008)
    assert BestRate(lr=0.016, width=32).at(64) == 0.016


RATES = [(1.0, -2), (2.0, -1), (4.0, 0), (8.0, 0), (16.0, 0), (32.0, 1)]


@pytest.mark.parametrize(
    ("losses", "needed"),
    [
        ({4: [3.0], 8: [2.0], 16: [3.0]}, set()),
        ({4: [2.0], 8: [2.5], 16: [3.0]}, {-1}),
        ({4: [2.0], 8: [2.5], 16: [3.0], 2: [1.9]}, {-1, -2}),
        ({4: [2.0], 8: [2.5], 16: [3.0], 2: [2.1]}, {-1}),
        ({4: [3.0], 8: [2.5], 16: [2.0]}, {1}),
        ({4: [3.0], 8: [2.5], 16: [2.0, math.inf]}, set()),
        ({4: [math.inf], 8: [math.inf], 16: [math.inf]}, {-1}),
        ({4: [math.nan], 8: [2.5], 16: [2.0]}, set()),
        ({4: [3.0, 2.0], 8: [2.4, 2.4], 16: [9.0, 9.0]}, set()),
    ],
)
def test_a_rate_follows_while_the_best_one_is_the_outermost(losses, needed):
    rows = [
        {
            "experiment": "learning_rate",
            "model": "tiny",
            "optimizer": "adamw",
            "argument": "",
            "value": "",
            "lr": lr,
            "extension": extension,
            "run": f"{lr:g} {seed}",
        }
        for lr, extension in RATES
        for seed in range(len(losses.get(lr, [0])))
    ]
    by_run = {f"{lr:g} {seed}": loss for lr, of in losses.items() for seed, loss in enumerate(of)}
    kept = needed_rows(rows, lambda run: by_run.get(run, math.nan))
    assert {row["extension"] for row in kept} == needed | {0}
    assert [row for row in rows if row in kept] == kept


def test_a_decision_waits_for_the_rates_before_it():
    assert not is_needed(-2, RATES, {2.0: [math.nan], 4.0: [1.0], 8.0: [2.0], 16.0: [3.0]})
    rows = [
        row.row() | {"run": f"{row.spec.training.lr}"}
        for row in plan_of({"rates": 3, "extend": 2})
        if row.spec.seed == 0
    ]
    outer = next(row for row in rows if row["extension"] == 2)
    inner = [row["extension"] for row in before(outer["run"], rows)]
    assert sorted(inner) == [0, 0, 0, 1]


@pytest.fixture(autouse=True)
def profile_file(tmp_path, text_file):
    plan_of.path, plan_of.text = tmp_path / "mine.yaml", text_file


def plan_of(values, **profile):
    base = profile_values(plan_of.text)
    base["experiments"] = {"learning_rate": GRID | values}
    path = write_profile(plan_of.path, json.loads(json.dumps(base | profile)))
    return plan(load_profile(str(path)))


def test_a_model_may_have_its_own_optimizers_seeds_and_rates():
    values = {"optimizers": ["adamw", "powerstep"], "rates": 3, "extend": 0}
    own = {"tiny": {"optimizers": ["powerstep"], "seeds": [5, 6], "rates": 2}}
    runs = plan_of(values | {"by_model": own})
    assert {run.spec.optimizer.name for run in runs} == {"powerstep"}
    assert {run.spec.seed for run in runs} == {5, 6}
    assert len({run.spec.training.lr for run in runs}) == 2
    assert len(plan_of(values)) == 6


def test_an_optimizer_may_have_its_own_seeds_and_number_of_rates():
    values = {"optimizers": ["adamw", "powerstep"], "extend": 0}
    runs = plan_of(
        values
        | {"rates": {"default": 3, "adamw": 2}, "seeds": {"powerstep": [0], "default": [1, 2]}}
    )
    tried = {(run.spec.optimizer.name, run.spec.seed) for run in runs}
    assert tried == {("adamw", 1), ("adamw", 2), ("powerstep", 0)}
    assert len(runs) == 2 * 2 + 3


def test_a_rate_of_by_optimizer_is_the_centre():
    own = {"by_optimizer": {"adamw": {"lr": 0.03}}}
    rates = [run.spec.training.lr for run in plan_of({"rates": 3, "extend": 0}, **own)]
    assert rates == [0.016, 0.032, 0.064]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rates": 3, "lr": [1e-3]}, "rates stands beside lr"),
        ({"rates": 1}, "rates is 1, but it should be greater than 1"),
        ({"rates": 3, "extend": -1}, "extend is -1"),
        ({"lr": [1e-3], "by_model": {"tiny": {"rates": 3}}}, "tiny.rates stands beside lr, but"),
        ({"rates": 3, "by_model": {"tiny": {"lr": [1e-3]}}}, "tiny.lr stands beside rates, but"),
        ({"seeds": {"lion": [0]}}, "seeds.lion names no optimizer of the experiment"),
        ({"rates": {}}, "rates.adamw is missing, and so is rates.default"),
        ({"by_model": {"tiny": {"seeds": {}}}}, "seeds.adamw is missing, and so is seeds.default"),
        ({"by_model": {"huge": {"seeds": [1]}}}, "by_model.huge is no model of the experiment"),
        (
            {"by_model": {"tiny": {"optimizers": ["lion"]}}},
            "by_model.tiny.optimizers has 'lion', but it must be one of adamw",
        ),
    ],
)
def test_contradictions_are_told(values, told):
    with pytest.raises(ConfigError, match=told):
        experiment(**values)


SIZES = {
    name: {"family": "gpt2", "layers": 1, "width": width, "heads": 2, "context": 16}
    | {"vocab_size": 300}
    for name, width in {"first": 16, "second": 24, "third": 32}.items()
}


@pytest.mark.parametrize(
    ("models", "ladder", "rates", "told"),
    [
        ("first second", "first second", 3, ""),
        ("first second", "second first", 3, "has 'first' with .* after 'second' with .* must incr"),
        ("first second", "first third", 3, "ladder has 'third', but it must be a model of experim"),
        ("first second", "first second", [1e-3], "has 1 learning rate for adamw and first, but a"),
        ("first second", "first fourth", 3, "ladder has 'fourth', but it must be one of gpt2-pico"),
    ],
)
def test_a_ladder_has_increasing_sizes_with_several_rates(models, ladder, rates, told):
    values = {"models": models.split(), "extend": 0}
    values |= {"rates": rates} if isinstance(rates, int) else {"lr": rates}

    def check():
        runs = plan_of(values, models=SIZES, ladder=ladder.split())
        check_ladder(load_profile(str(plan_of.path)), runs)
        return runs

    if told:
        with pytest.raises(ConfigError, match=told):
            check()
    else:
        assert {(run.spec.model_name, run.rung) for run in check()} == {("first", 1), ("second", 2)}


def test_status_tells_which_runs_may_follow(tmp_path):
    shown = status(plan_of({"rates": 3, "extend": 1}), ResultsFolder(tmp_path))
    assert shown.endswith("5 runs: 2 may follow, 3 pending")
