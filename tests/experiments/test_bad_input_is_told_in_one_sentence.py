"""A user's mistake is reported before training: the field, its value, and accepted values."""

import re

import pytest

from experiments.plan.grid import plan
from experiments.plan.options import Options
from experiments.plan.preflight import check_runs
from experiments.plan.reading import lines_named, load_profile
from experiments.settings import ConfigError, parse
from experiments.training.parallel import Parallel
from tests.conftest import profile_values, write_profile


def setting(*keys):
    """Return a function that sets a nested value of a profile."""

    def change(values, value):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (
            setting("training", "lr"),
            -1e-3,
            r"training.lr is -0.001, but it should be greater than",
        ),
        (setting("training", "lr"), float("inf"), r"training.lr is inf, but it should be a finite"),
        (setting("datasets", "tiny"), 5, r"datasets.tiny"),
        (setting("experiments"), 5, r"experiments is 5, but it should be a valid dictionary"),
        (setting("training", "steps"), 0, r"training.steps is 0, but it should be greater than 0"),
        (setting("training", "steps"), "many", r"training.steps is 'many', but it should be"),
        (setting("training", "learning_rate"), 1, r"unknown key 'learning_rate'; accepted: .*lr"),
        (
            setting("training", "precision"),
            "fp8",
            r"precision is 'fp8', but it should be '32-true'",
        ),
        (
            setting("training", "warmup_steps"),
            12,
            r"warmup_steps is 12, but it must be below steps",
        ),
        (setting("training", "val_every"), 5, r"val_every is 5, but it must divide steps, 12"),
        (setting("training", "micro_batch_size"), 3, r"micro_batch_size is 3, .* batch_size, 4"),
        (setting("training", "context"), 32, r"training.context is 32, but tiny takes at most 16"),
        (setting("models", "tiny", "heads"), 3, r"heads is 3, but it must divide width, 16"),
        (setting("models", "tiny", "vocab_size"), 299, r"vocab_size is 300, but the embedding of"),
        (setting("models", "tiny", "depth"), 2, r"models.tiny: unknown key 'depth'; accepted"),
        (
            setting("datasets", "tiny", "kind"),
            "web",
            r"datasets.tiny.kind is 'web', .*'docstrings', 'te",
        ),
        (setting("models", "tiny", "family"), "bert", r"models.tiny.family is 'bert', .* 'qwen3'"),
        (
            setting("models", "tiny"),
            {"layers": 1},
            r"models.tiny.family is None, but it must be given",
        ),
        (
            setting("datasets", "tiny", "vocab_size"),
            100,
            r"datasets.tiny.vocab_size is 100, but it",
        ),
        (
            setting("dataset"),
            "nosuch",
            r"dataset has 'nosuch', but it must be one of docstrings, docst",
        ),
        (setting("experiments", "comparison", "models"), ["x"], r"models has 'x', .* gpt2-pico"),
        (setting("experiments", "comparison", "optimizers"), ["x"], r"has 'x', .* one of adamw"),
        (setting("experiments", "comparison", "seeds"), [], r"seeds is \[\], but .* at least one"),
        (setting("experiments", "comparison", "seed"), [0], r"unknown key 'seed'; accepted"),
        (setting("experiments"), {}, r"experiments is {}, but .* at least one"),
        (setting("profile"), 1, r"unknown key 'profile'; accepted"),
        (
            setting("by_model"),
            {"tiny": {"layout": {"devices": 8, "tp": 3}}},
            r"by_model.tiny.layout: tp × pp is 3 × 1, but it must divide devices, 8",
        ),
        (
            setting("by_model"),
            {"tiny": {"layout": {"devices": 8, "tp": 2, "ep": 3}}},
            r"by_model.tiny.layout: ep is 3, but it must divide devices / \(tp × pp\), which is 4",
        ),
        (
            setting("by_model"),
            {"tiny": {"layout": {"devices": 8, "ep": 2}}},
            r"by_model.tiny.layout.ep is 2, .* experts of tiny, which has none",
        ),
        (
            setting("by_model"),
            {"tiny": {"training": {"context": 32}}},
            r"by_model.tiny.training.context is 32, but tiny takes at most 16",
        ),
    ],
)
def test_a_wrong_value_is_named(tmp_path, text_file, change, value, message):
    values = profile_values(text_file)
    change(values, value)
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=message) as raised:
        plan(load_profile(str(path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "value", "line"),
    [
        (setting("training", "lr"), -1, "  lr: -1"),
        (setting("training", "context"), 32, "  context: 32"),
        (setting("training", "lr_max"), 1, "training:"),
        (setting("experiments", "comparison", "optimizers"), ["x"], "    optimizers:"),
        (setting("models", "tiny", "heads"), 3, "    heads: 3"),
        (setting("by_model"), {"tiny": {"layout": {"devices": 8, "tp": 3}}}, "      tp: 3"),
        (setting("by_model"), {"gpt2-pico": {"layout": {"ep": 2}}}, "      ep: 2"),
    ],
)
def test_the_line_to_mend_is_named(tmp_path, text_file, change, value, line):
    values = profile_values(text_file)
    values["experiments"]["comparison"]["models"].append("gpt2-pico")
    change(values, value)
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError) as raised, lines_named(str(path)):
        plan(load_profile(str(path)))
    number = int(re.match(r"wrong.yaml, line (\d+): ", str(raised.value))[1])
    assert path.read_text().splitlines()[number - 1] == line


def test_a_line_of_a_shared_registry_is_named_there():
    expected = pytest.raises(ConfigError, match=r"^optimizers.yaml, line \d+: optimizers.lion.args")
    with expected, lines_named("laptop"):
        raise ConfigError(
            ("optimizers", "lion", "args"), "has 'x', but lion_pytorch.Lion accepts only lr"
        )


def test_a_precision_that_an_optimizer_lacks_is_refused(tmp_path, text_file, tiny_corpus):
    values = profile_values(text_file)
    values["experiments"]["comparison"] |= {
        "optimizers": ["powerstep", "lion"],
        "args": {"state_precision": ["int8"]},
    }
    path = write_profile(tmp_path / "wrong.yaml", values)
    profile = load_profile(str(path))
    planned = plan(profile)
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (corpora / planned[0].spec.corpus.path).symlink_to(tiny_corpus)
    expected = (
        r"experiments.comparison.args: optimizers.lion.args has 'state_precision', but"
        r" lion_pytorch.Lion accepts only lr, betas"
    )
    with pytest.raises(ConfigError, match=expected):
        check_runs(planned, corpora)


@pytest.mark.parametrize("name", ["folder.yaml", "none.yaml"])
def test_a_profile_that_is_no_file_is_named(tmp_path, name):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=rf"^profile is '.*{name}', but it must be one of"):
        load_profile(str(tmp_path / name))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"tensorboard": "flase"}, r"^tensorboard is 'flase', but it should be true or false"),
        ({"tensorboard": 1}, r"^tensorboard is 1, but it should be true or false"),
        ({"profile": 10}, r"^profile is 10, but it should be a name that is no number, or the"),
        ({"profile": None}, r"^profile is None, but it should be a name"),
        ({"runs_at_once": True}, r"^runs_at_once is True, but it should be a whole number"),
        ({"runs_at_once": "2"}, r"^runs_at_once is '2', but it should be a whole number"),
        ({"runs_at_once": 0}, r"^runs_at_once is 0, but it should be greater than 0"),
        ({"steps": 5}, r"^unknown key 'steps'; accepted: profile, runs_at_once"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        parse(Options, value)


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("false", False), (True, True)])
def test_snakemake_leaves_true_and_false_as_text(given, meant):
    assert parse(Options, {"tensorboard": given}).tensorboard is meant


def test_an_unknown_profile_is_told_the_known_ones():
    with pytest.raises(
        ConfigError,
        match=r"profile is 'desktop', .* one of gpu, laptop, lion, low_memory, paper, smoke, study",
    ):
        load_profile("desktop")


def test_an_argument_that_names_no_field_of_the_model_is_refused(tmp_path, text_file):
    values = profile_values(text_file)
    entry = {"label": "x", "class": "a.b", "args": {"dim": "$model.size"}, "source": "me"}
    values["optimizers"] = {"mine": entry}
    values["experiments"]["comparison"]["optimizers"] = ["mine"]
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=r"args.dim is '\$model.size', .* \$model.width"):
        plan(load_profile(str(path)))


def test_what_one_table_could_not_tell_apart_is_refused(tmp_path, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        "mine": {"label": "AdamW", "class": "a.b", "args": {}, "source": "me"},
    }
    values["experiments"]["comparison"]["optimizers"] = ["adamw", "mine"]
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=r"mine.label is 'AdamW', but adamw has that label"):
        plan(load_profile(str(path)))


def test_a_name_that_is_taken_is_refused(tmp_path, text_file):
    values = profile_values(text_file)
    values["models"]["gpt2-pico"] = values["models"]["tiny"]
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=r"models.gpt2-pico already stands in models.yaml"):
        load_profile(str(path))


def test_numbers_may_be_written_as_everyone_writes_them(tmp_path, text_file):
    path = write_profile(tmp_path / "mine.yaml", profile_values(text_file))
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 1e-2"))
    assert plan(load_profile(str(path)))[0].spec.training.lr == 0.01
    assert load_profile("laptop").optimizers["adamw"].args["eps"] == 1e-8


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"nodes": 0}, ("slurm", "nodes"), "is 0, but it should be greater than 0"),
        ({"nodes": "two"}, ("slurm", "nodes"), "is 'two', but it should be a whole number"),
        ({"tensor_parallel": 2}, ("slurm", "tensor_parallel"), "is 2, but it must divide"),
        ({"nods": 2}, ("slurm",), "unknown key 'nods'; accepted: nodes, strategy"),
    ],
)
def test_an_error_has_its_field_and_its_problem_as_attributes(values, field, problem):
    with pytest.raises(ConfigError) as raised:
        parse(Parallel, values, ("slurm",))
    assert raised.value.field == field
    assert raised.value.problem.startswith(problem)
    assert str(raised.value).endswith(raised.value.problem)
