"""An optimizer may have its own learning rates and training settings; the others' runs stay."""

import re
from collections import Counter

import pytest

from analysis.catalogue import tables
from analysis.frames import read_results
from analysis.tables.write import make_table
from experiments.plan.grid import dump_used, plan
from experiments.plan.preflight import check_runs
from experiments.plan.reading import lines_named, load_profile
from experiments.settings import ConfigError
from tests.conftest import profile_values, write_profile


@pytest.fixture
def profile(tmp_path, text_file):
    """Return a function that writes a profile, with changed keys of its experiment and its top."""

    def write(experiment=None, training=None, **top):
        values = profile_values(text_file, **training or {}) | top
        values["experiments"]["comparison"] |= experiment or {}
        return write_profile(tmp_path / "mine.yaml", values)

    return write


@pytest.fixture
def planned(profile):
    """Return a function that plans such a profile."""

    def make(experiment=None, **keys):
        return plan(load_profile(str(profile(experiment, **keys))))

    return make


def paths(runs, optimizer):
    return {run.spec.path for run in runs if run.spec.optimizer.name == optimizer}


def test_an_optimizer_may_have_its_own_list_of_learning_rates(planned):
    runs = planned({"lr": {"default": [1e-3, 1e-2], "adamw": [0.1, 0.2, 0.3]}})
    tried = Counter((run.spec.optimizer.name, run.spec.training.lr) for run in runs)
    assert tried == {
        ("adamw", 0.1): 2,
        ("adamw", 0.2): 2,
        ("adamw", 0.3): 2,
        ("powerstep-int8", 1e-3): 2,
        ("powerstep-int8", 1e-2): 2,
    }
    alike = planned({"lr": [1e-3, 1e-2]})
    assert paths(runs, "powerstep-int8") == paths(alike, "powerstep-int8")
    assert paths(runs, "adamw") == paths(planned({"lr": [0.1, 0.2, 0.3]}), "adamw")


def test_no_default_is_needed_if_each_optimizer_has_a_list(planned):
    runs = planned({"lr": {"powerstep-int8": [1e-3], "adamw": [0.1]}})
    found = {(run.spec.optimizer.name, run.spec.training.lr) for run in runs}
    assert found == {("adamw", 0.1), ("powerstep-int8", 1e-3)}


def test_an_optimizer_may_have_its_own_training_settings(planned):
    runs = planned(by_optimizer={"adamw": {"weight_decay": 0.3, "schedule": "constant", "lr": 1}})
    assert paths(runs, "powerstep-int8") == paths(planned(), "powerstep-int8")
    as_if = {"weight_decay": 0.3, "schedule": "constant", "lr": 1.0}
    assert paths(runs, "adamw") == paths(planned(training=as_if), "adamw")
    assert {run.row()["shared_lr"] for run in runs} == {1e-2}  # adamw is not at the shared rate


def test_the_experiment_comes_before_the_optimizer_and_the_optimizer_before_the_model(planned):
    runs = planned(
        {"lr": {"default": [0.5], "powerstep-int8": [0.25]}, "training": {"grad_clip_norm": [7]}},
        by_model={"tiny": {"training": {"weight_decay": 0.2, "warmup_steps": 2, "lr": 0.1}}},
        by_optimizer={"adamw": {"lr": 1.0, "warmup_steps": 1, "grad_clip_norm": 5}},
    )
    found = {
        (
            run.spec.optimizer.name,
            run.spec.training.lr,
            run.spec.training.warmup_steps,
            run.spec.training.weight_decay,
            run.spec.training.grad_clip_norm,
        )
        for run in runs
    }
    assert found == {("adamw", 0.5, 1, 0.2, 7), ("powerstep-int8", 0.25, 2, 0.2, 7)}


def test_training_settings_vary_one_at_a_time(planned):
    runs = planned({"training": {"weight_decay": [0, 0.3], "warmup_steps": [6]}, "seeds": [0]})
    rows = [run.row() for run in runs]
    assert [(row["argument"], row["value"]) for row in rows] == 2 * [
        ("training.warmup_steps", "6"),
        ("training.weight_decay", "0.0"),
        ("training.weight_decay", "0.3"),
    ]
    settings = [(row["weight_decay"], row["warmup_steps"]) for row in rows]
    assert settings == 2 * [(0.1, 6), (0.0, 3), (0.3, 3)]
    one = planned({"seeds": [0]}, training={"weight_decay": 0.3})
    assert {row["run"] for row in rows} >= {run.spec.path for run in one}


def test_another_batch_size_keeps_the_tokens_and_the_shape_of_the_schedule(planned):
    training = {"schedule": "wsd", "decay_steps": 6, "warmup_steps": 2, "log_every": 3}
    runs = planned({"training": {"batch_size": [2, 4, 8]}, "seeds": [0]}, training=training)
    found = [
        (t.batch_size, t.steps, t.warmup_steps, t.decay_steps, t.val_every, t.log_every)
        for t in (run.spec.training for run in runs)
    ]
    assert found == 2 * [(2, 24, 4, 12, 8, 3), (4, 12, 2, 6, 4, 3), (8, 6, 1, 3, 2, 3)]
    assert runs[1].spec == planned({"seeds": [0]}, training=training)[0].spec


def test_another_number_of_steps_keeps_the_shape_of_the_schedule(planned):
    training = {"schedule": "wsd", "decay_steps": 6, "warmup_steps": 2, "log_every": 3}
    runs = planned(
        {"training": {"steps": [6, 12, 24]}, "optimizers": ["adamw"], "seeds": [0, 1]}
        | {"lr": [1e-3, 1e-2]},
        training=training,
    )
    found = [
        (t.batch_size, t.steps, t.warmup_steps, t.decay_steps, t.val_every, t.log_every, t.lr)
        for t in (run.spec.training for run in runs)
    ]
    lengths = [(4, 6, 1, 3, 2, 3), (4, 12, 2, 6, 4, 3), (4, 24, 4, 12, 8, 3)]
    assert found == [(*each, lr) for each in lengths for lr in (1e-3, 1e-2) for _ in range(2)]
    rows = [run.row() for run in runs[::4]]
    shown = [(row["argument"], row["value"], row["planned_steps"]) for row in rows]
    assert shown == [("training.steps", str(steps), steps) for steps in (6, 12, 24)]
    plain = planned({"lr": [1e-3, 1e-2], "optimizers": ["adamw"]}, training=training)
    assert {run.spec.path for run in runs[4:8]} == {run.spec.path for run in plain}


def test_numbers_of_steps_beside_another_number_of_steps_are_taken_as_given(planned):
    own = {"steps": 30, "warmup_steps": 5, "batch_size": 8}
    runs = planned(by_optimizer={"adamw": own})
    found = next(run.spec.training for run in runs if run.spec.optimizer.name == "adamw")
    assert found.model_dump(include=set(own)) == own
    assert found.val_every == 10


def test_an_experiment_may_vary_arguments_at_several_learning_rates(planned):
    experiment = {"optimizers": ["powerstep"], "seeds": [0, 1], "lr": [1e-3, 1e-2]}
    runs = planned(experiment | {"args": {"beta": [0.0, 0.2], "gamma": [0.8]}})
    found = Counter(
        (run.argument, run.value, run.spec.optimizer.args[run.argument], run.spec.training.lr)
        for run in runs
    )
    values = [("beta", 0.0), ("beta", 0.2), ("gamma", 0.8)]
    assert found == {(*each, each[1], lr): 2 for each in values for lr in (1e-3, 1e-2)}
    assert len({run.spec.path for run in runs}) == 12


def test_an_optimizers_numbers_of_steps_are_those_of_its_own_batch_size(planned):
    runs = planned(by_optimizer={"adamw": {"batch_size": 8, "warmup_steps": 5}})
    own = next(run.spec.training for run in runs if run.spec.optimizer.name == "adamw")
    assert (own.steps, own.warmup_steps, own.val_every) == (6, 5, 2)


def test_an_optimizer_that_needs_the_number_of_steps_gets_that_of_its_batch_size(planned):
    entry = {"label": "x", "class": "a.b", "args": {"T": "$training.steps"}, "source": "me"}
    runs = planned(
        {"optimizers": ["mine"], "training": {"batch_size": [2, 4]}, "seeds": [0]},
        optimizers={"mine": entry},
    )
    assert [run.spec.optimizer.args["T"] for run in runs] == [24, 12]


def test_another_schedule_drops_the_decay_of_wsd(planned):
    runs = planned(
        {"training": {"schedule": ["wsd", "cosine"]}, "seeds": [0]},
        training={"schedule": "wsd", "decay_steps": 6, "decay_shape": "sqrt"},
    )
    assert [run.row()["schedule"] for run in runs] == 2 * ["wsd (6 steps, sqrt)", "cosine"]
    cosine = planned({"seeds": [0]})
    assert {run.spec.path for run in runs} >= {run.spec.path for run in cosine}


@pytest.mark.parametrize(
    ("experiment", "top", "line", "message"),
    [
        (
            {"lr": {"default": [1e-3], "lyon": [1e-4]}},
            {},
            "lyon:",
            r"experiments.comparison: lr.lyon names no optimizer of the experiment: it must be one"
            r" of default, adamw, powerstep-int8",
        ),
        (
            {"lr": {"adamw": [1e-3]}},
            {},
            "lr:",
            r"experiments.comparison: lr.powerstep-int8 is missing, and so is lr.default",
        ),
        ({"lr": {"default": [-1]}}, {}, "- -1", r"experiments.comparison.lr.default.0 is -1, but"),
        ({"lr": {"default": []}}, {}, "default: []", r"lr.default is \[\], .* at least one item"),
        ({"lr": [1, -1]}, {}, "- -1", r"experiments.comparison.lr.1 is -1, but it should be gre"),
        ({"lr": 1}, {}, "lr: 1", r"experiments.comparison.lr is 1, but it should be a list"),
        (
            {"training": {"lr": [1]}},
            {},
            "lr:",
            r"training.lr is 'lr', .* 'steps', 'weight_decay'",
        ),
        (
            {"training": {"weight_decay": [0.1, -1]}},
            {},
            "weight_decay:",
            r"experiments.comparison.training.weight_decay is -1, but it should be greater than",
        ),
        (
            {"training": {"weight_decay": [0.1, 0.10]}},
            {},
            "weight_decay:",
            r"training.weight_decay has 0.1, but it should stand there only once",
        ),
        (
            {"training": {"weight_decay": [0.1]}, "args": {"beta": [0.1]}},
            {},
            "training:",
            r"experiments.comparison: training stands beside args, but an experiment may vary only",
        ),
        (
            {"training": {"batch_size": [5]}},
            {},
            "batch_size:",
            r"training.batch_size is 5, but to keep the number of tokens it must divide 12 × 4, whi"
            r"ch is steps × batch_size",
        ),
        (
            {"training": {"batch_size": [0]}},
            {},
            "batch_size:",
            r"experiments.comparison.training.batch_size is 0, but it should be greater than 0",
        ),
        (
            {"training": {"warmup_steps": [12]}},
            {},
            "warmup_steps:",
            r"experiments.comparison.training: warmup_steps is 12, but it must be below steps, 12",
        ),
        ({}, {"by_optimizer": {"lyon": {}}}, "by_optimizer:", r"by_optimizer has 'lyon', .* lion,"),
        (
            {},
            {"by_optimizer": {"adamw": {"context": 8}}},
            "context: 8",
            r"by_optimizer.adamw.context is 'context', .* 'lr', 'steps', 'weight_decay', .*'batch",
        ),
        (
            {},
            {"by_optimizer": {"adamw": {"steps": 6}}},
            "steps: 6",
            r"by_optimizer.adamw.steps is 6, but warmup_steps changes in proportion, and 3 × 6 / 12"
            r" is not a whole number",
        ),
        (
            {"training": {"steps": [24, 0]}},
            {},
            "steps:",
            r"experiments.comparison.training.steps is 0, but it should be greater than 0",
        ),
        (
            {"training": {"steps": [24, 1.5]}},
            {},
            "steps:",
            r"experiments.comparison.training.steps is 1.5, but it should be a whole number",
        ),
        (
            {},
            {"by_optimizer": {"adamw": {"lr": 0}}},
            "lr: 0",
            r"by_optimizer.adamw.lr is 0, but it should be greater than 0",
        ),
        (
            {},
            {"by_optimizer": {"adamw": {"schedule": "wsd"}}},
            "adamw:",
            r"by_optimizer.adamw: decay_steps is missing, but the schedule wsd needs it",
        ),
        (
            {},
            {"by_optimizer": {"adamw": {"batch_size": 16}}},
            "batch_size: 16",
            r"by_optimizer.adamw.batch_size is 16, .* divide 3 × 4, which is warmup_steps × batch",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(profile, experiment, top, line, message):
    path = profile(experiment, **top)
    with pytest.raises(ConfigError, match=message) as raised, lines_named(str(path)):
        plan(load_profile(str(path)))
    number = int(re.match(r"mine.yaml, line (\d+): ", str(raised.value))[1])
    assert path.read_text().splitlines()[number - 1].strip() == line


@pytest.mark.parametrize(
    ("experiment", "top", "line", "message"),
    [
        (
            {"training": {"weight_decay": [0.2]}},
            {},
            "weight_decay:",
            r"experiments.comparison: training.weight_decay is 0.2, but torch.optim.Rprop",
        ),
        (
            {},
            {"by_optimizer": {"mine": {"weight_decay": 0.2}}},
            "weight_decay: 0.2",
            r"by_optimizer.mine.weight_decay is 0.2, but torch.optim.Rprop",
        ),
    ],
)
def test_an_optimizer_that_cannot_have_a_setting_is_named_before_training(
    profile, tmp_path, tiny_corpus, experiment, top, line, message
):
    entry = {"label": "Rprop", "class": "torch.optim.Rprop", "args": {}, "source": "torch"}
    path = profile(
        {"optimizers": ["mine"]} | experiment,
        training={"weight_decay": 0.0},
        optimizers={"mine": entry},
        **top,
    )
    runs = plan(load_profile(str(path)))
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (corpora / runs[0].spec.corpus.path).symlink_to(tiny_corpus)
    with pytest.raises(ConfigError, match=message) as raised, lines_named(str(path)):
        check_runs(runs, corpora)
    number = int(re.match(r"mine.yaml, line (\d+): ", str(raised.value))[1])
    assert path.read_text().splitlines()[number - 1].strip() == line


def test_table_2_has_a_row_for_each_optimizer_with_its_own_settings(planned, tmp_path):
    rows = [
        run.row()
        for run in planned(
            {
                "optimizers": ["lion", "adamw", "powerstep-int8"],
                "lr": {"default": [1e-3, 0.1], "adamw": [0.2]},
                "training": {"weight_decay": [0.5], "batch_size": [8, 4]},
            },
            by_optimizer={
                "lion": {"schedule": "wsd", "decay_steps": 4, "batch_size": 2, "warmup_steps": 8},
                "powerstep-int8": {"lr": 1.0, "weight_decay": 0.1},
            },
            training={"warmup_steps": 2},
        )
    ]
    _, shown = make_table(tables(rows)["table2"], read_results(rows, tmp_path))
    ours = shown.iloc[:3]
    assert ours.index.tolist() == ["tiny", "tiny, Lion", "tiny, PowerStep int8"]
    columns = ["batch_size", "context", "lr", "steps", "warmup_steps", "weight_decay", "schedule"]
    assert ours[columns].to_numpy().tolist() == [
        ["4", "16", "0.01", "12", "2", "0.1", "cosine"],
        ["2", "–", "–", "24", "8", "–", "wsd (4 steps, linear)"],
        ["–", "–", "1", "–", "–", "–", "–"],
    ]
    assert (ours.loc["tiny, Lion":, ["dataset", "grad_clip_norm", "min_lr_ratio"]] == "–").all(
        axis=None
    )


def test_the_settings_behind_a_plan_keep_only_the_optimizers_that_it_uses(profile, tmp_path):
    mine, other = (
        {"label": label, "class": "torch.optim.SGD", "args": {}, "source": "x"} for label in "ab"
    )
    path = profile(
        {
            "optimizers": ["mine"],
            "lr": {"default": [1e-3], "mine": [1e-2]},
            "training": {"schedule": ["constant"]},
        },
        optimizers={"mine": mine, "other": other},
        by_optimizer={"mine": {"weight_decay": 0.3}, "other": {"lr": 1e-4}},
    )
    settings = load_profile(str(path))
    runs = plan(settings)
    again = tmp_path / "again.yaml"
    again.write_text(dump_used(settings, runs))
    assert load_profile(str(again)).by_optimizer == {"mine": {"weight_decay": 0.3}}
    assert plan(load_profile(str(again))) == runs
