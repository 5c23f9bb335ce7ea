"""What a user gets wrong is told before any training: field, value, what is accepted."""

import pytest

from experiments.config import load_profile
from experiments.grid import plan
from experiments.settings import ConfigError
from tests.conftest import profile_values, write_profile


def setting(*keys):
    """Return a function that sets a value deep in a profile."""

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
        (
            setting("datasets", "tiny", "vocab_size"),
            100,
            r"datasets.tiny.vocab_size is 100, but it",
        ),
        (
            setting("dataset"),
            "nosuch",
            r"dataset has 'nosuch', but it must be one of docstrings, ti",
        ),
        (setting("experiments", "comparison", "models"), ["x"], r"models has 'x', .* gpt2-pico"),
        (setting("experiments", "comparison", "optimizers"), ["x"], r"has 'x', .* one of adamw"),
        (setting("experiments", "comparison", "seeds"), [], r"seeds is \[\], but .* at least one"),
        (setting("experiments", "comparison", "seed"), [0], r"unknown key 'seed'; accepted"),
        (setting("experiments"), {}, r"experiments is {}, but .* at least one"),
        (setting("profile"), 1, r"unknown key 'profile'; accepted"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, text_file, change, value, message):
    values = profile_values(text_file)
    change(values, value)
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=message) as raised:
        plan(load_profile(str(path)))
    assert "\n" not in str(raised.value)


def test_an_unknown_profile_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"profile is 'desktop', .* one of laptop, smoke"):
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

    values = profile_values(text_file)
    again = values["experiments"]["comparison"] | {"training": {"lr": 1}}
    values["experiments"]["later"] = again
    write_profile(path, values)
    with pytest.raises(ConfigError, match=r"later trains tiny with other settings than .*compar"):
        plan(load_profile(str(path)))


def test_a_name_that_is_taken_is_refused(tmp_path, text_file):
    values = profile_values(text_file)
    values["models"]["gpt2-pico"] = values["models"]["tiny"]
    path = write_profile(tmp_path / "wrong.yaml", values)
    with pytest.raises(ConfigError, match=r"models.gpt2-pico already stands in models.yaml"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [", r"wrong.yaml is not valid YAML"),
        ("dataset: a\ndataset: b\n", r"the key 'dataset' stands twice"),
        ("", r"wrong.yaml"),
        ("dataset: !!python/object/apply:os.getcwd []", r"wrong.yaml is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_profile(str(path))


def test_numbers_may_be_written_as_everyone_writes_them(tmp_path, text_file):
    path = write_profile(tmp_path / "mine.yaml", profile_values(text_file))
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 1e-2"))
    assert plan(load_profile(str(path)))[0].spec.training.lr == 0.01
    assert load_profile("laptop").optimizers["adamw"].args["eps"] == 1e-8
