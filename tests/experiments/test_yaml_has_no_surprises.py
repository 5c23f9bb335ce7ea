"""YAML means what it looks like: names stay text, and ambiguous values are refused."""

import json
import re
from pathlib import Path

import pytest
import yaml

from experiments.corpus.settings import DocstringCorpus
from experiments.launch.slurm.settings import read_cluster
from experiments.plan.grid import dump_used, plan
from experiments.plan.reading import CONFIG_DIR, lines_named, load_profile
from experiments.settings import ConfigError, parse
from experiments.yaml_loader import StrictLoader, line_of, read_yaml
from tests.conftest import profile_values

PROFILE = """
dataset: tiny
training: {{steps: 12, batch_size: 4, context: 16, lr: 1e-2, warmup_steps: 3, val_every: 4,
  val_sequences: 6}}
experiments:
  comparison: {{models: [tiny], optimizers: [mine], seeds: [0]}}
optimizers:
  mine: {{label: Mine, class: torch.optim.SGD, args: {{momentum: 0.9}}, source: a test}}
models:
  tiny: {{family: gpt2, layers: 1, heads: 2, width: 16, context: 16, vocab_size: 300}}
datasets:
  tiny: {{kind: text, files: ["{file}"], vocab_size: 300}}
"""


@pytest.fixture
def planned(tmp_path, text_file):
    """Return a function that plans PROFILE after replacing parts of its text."""

    def make(*replaced: tuple[str, str]):
        text = PROFILE.format(file=text_file)
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        with lines_named(str(path)):
            return plan(load_profile(str(path)))

    return make


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("+1E-3", 1e-3), ("1.e3", 1000.0), (".5", 0.5), ("-2", -2), ("0", 0)),
        *(("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None)),
        *(("010", "010"), ("08", "08"), ("0x10", "0x10"), ("0o10", "0o10"), ("1_000", "1_000")),
        *(("1:30", "1:30"), ("4:00:00", "4:00:00"), ("2024-01-01", "2024-01-01")),
        *(("yes", "yes"), ("no", "no"), ("on", "on"), ("None", "None"), ("nan", "nan")),
    ],
)
def test_a_scalar_is_a_decimal_number_a_boolean_null_or_text(text, value):
    read = yaml.load(text, Loader=StrictLoader)
    assert read == value
    assert type(read) is type(value) or isinstance(value, str)


@pytest.mark.parametrize("name", ["124", "007", "1e3", "no", "true", "null", "1_0", "nan"])
def test_a_key_is_a_name_as_it_is_written(planned, name):
    runs = planned(
        ("  tiny: {family", f"  {name}: {{family"),
        ("  mine: {label", f"  {name}: {{label"),
        ("  tiny: {kind", f"  {name}: {{kind"),
        ("dataset: tiny", f"dataset: '{name}'"),
        ("models: [tiny]", f"models: ['{name}']"),
        ("optimizers: [mine]", f'optimizers: ["{name}"]'),
        ("comparison", name),
        ("label: Mine", f"label: '{name}'"),
    )
    row = runs[0].row()
    assert {row[key] for key in ("experiment", "model", "optimizer", "label", "dataset")} == {name}


@pytest.mark.parametrize("label", ["08", "1:30", "no", "2024-01-01", "0x10"])
def test_text_needs_no_quotes_where_only_text_is_accepted(planned, label):
    assert planned(("label: Mine", f"label: {label}"))[0].label == label


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("models: [tiny]", "models: [tiny, 124]", "models.1 is 124, but it should be text, in q"),
        ("optimizers: [mine]", "optimizers: [1e3]", "optimizers.0 is 1000.0, but it should be te"),
        ("optimizers: [mine]", "optimizers: [~]", "optimizers.0 is None, but it should be text"),
        ("dataset: tiny", "dataset: true", "dataset is True, but it should be text, in quotes"),
        ("label: Mine", "label: 8", "optimizers.mine.label is 8, but it should be text"),
        ("label: Mine", 'label: ""', "optimizers.mine.label is '', but it should be a line of"),
        ("label: Mine", 'label: "a\\nb"', r"label is 'a\\nb', but it should be a line of text"),
        ("steps: 12", "steps: 012", "training.steps is 012, but it should be a whole number in d"),
        ("steps: 12", "steps: 1_2", "training.steps is 1_2, but it should be a whole number"),
        ("steps: 12", "steps: 0x12", "training.steps is 0x12, but it should be a whole number"),
        ("steps: 12", "steps: '12'", "training.steps is '12', but it should be a whole number"),
        ("steps: 12", "steps: 12.5", "training.steps is 12.5, but it should be a whole number"),
        ("steps: 12", "steps: 1:30", "training.steps is 1:30, but it should be a whole number"),
        ("warmup_steps: 3", "warmup_steps: yes", "warmup_steps is yes, but it should be a whole"),
        ("warmup_steps: 3", "warmup_steps: true", "warmup_steps is True, but it should be a who"),
        ("lr: 1e-2", "lr: true", "training.lr is True, but it should be a decimal number"),
        ("lr: 1e-2", "lr: '0.1'", "training.lr is '0.1', but it should be a decimal number"),
        ("lr: 1e-2", "lr: .inf", "training.lr is inf, but it should be a finite number"),
        ("lr: 1e-2", "lr: 2024-01-01", "training.lr is 2024-01-01, but it should be a decimal"),
        ("seeds: [0]", "seeds: [yes]", "seeds.0 is yes, but it should be a whole number"),
        ("seeds: [0]", "seeds: [true]", "seeds.0 is True, but it should be a whole number"),
        ("seeds: [0]", "seeds: [-1]", "seeds.0 is -1, but it should be greater than or equal"),
        (
            "seeds: [0]",
            f"seeds: [{2**64}]",
            f"seeds.0 is {2**64}, but it should be less than {2**64}",
        ),
        ("source: a test", "source: x, sharded: no", "sharded is no, but it should be true or f"),
        ("source: a test", "source: x, sharded: 0", "sharded is 0, but it should be true or fal"),
        # The class would treat the text "no" as true.
        ("momentum: 0.9", "nesterov: no", "args.nesterov is no, but it should be a decimal numb"),
        ("momentum: 0.9", "momentum: 0x1", "args.momentum is 0x1, but it should be a decimal nu"),
        ("momentum: 0.9", "betas: [0.9, 0_1]", "args.betas has 0_1, but it should be a decimal"),
        ("momentum: 0.9", "momentum: .nan", "args.momentum is nan, but it should be a finite num"),
        ("seeds: [0]", "seeds: [0], args: {momentum: [1_0]}", "args.momentum.0 is 1_0, but it"),
    ],
)
def test_a_value_of_another_kind_is_told_with_its_line(planned, old, new, message):
    with pytest.raises(ConfigError, match=message) as raised:
        planned((old, new))
    number = int(re.match(r"mine.yaml, line (\d+): ", str(raised.value))[1])
    line = PROFILE.splitlines()[number - 1]
    assert old in line.format(file="")


def test_a_whole_number_may_have_an_exponent_and_a_number_none(planned):
    training = planned(("steps: 12", "steps: 1.2e1"), ("lr: 1e-2", "lr: 1"))[0].spec.training
    assert (training.steps, training.lr) == (12, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0]", "seeds: [0, 1, 0]", r"comparison.seeds has 0, but .* only once"),
        ("models: [tiny]", "models: [tiny, tiny]", r"comparison.models has 'tiny', but"),
        ("optimizers: [mine]", "optimizers: [mine, 'mine']", r"optimizers has 'mine', but"),
        ("seeds: [0]", "seeds: [0], lr: [1e-3, 0.001]", r"comparison.lr has 0.001, but"),
        ("seeds: [0]", "seeds: [0], args: {momentum: [1, 0, 1.0]}", r"args.momentum has 1.0, but"),
        ("seeds: [0]", "seeds: [0], args: {momentum: [0.1, '0.1']}", r"momentum has '0.1', but"),
        ("seeds: [0]", "seeds: [0], args: {betas: [[1, 2], [1, 2]]}", r"betas has \[1, 2\], but"),
    ],
)
def test_a_duplicate_item_is_refused(planned, old, new, message):
    with pytest.raises(ConfigError, match=rf"^mine.yaml, line \d+: .*{message}"):
        planned((old, new))


def test_a_duplicate_package_is_refused():
    with pytest.raises(ConfigError, match="packages has 'numpy', but it should stand there only"):
        parse(DocstringCorpus, {"kind": "docstrings", "packages": ["numpy", "pandas", "numpy"]})


def test_values_that_python_takes_for_equal_are_not_the_same(planned):
    runs = planned(("seeds: [0]", "seeds: [0], args: {nesterov: [true, 1, null]}"))
    assert [run.row()["value"] for run in runs] == ["True", "1", "None"]


def test_merged_keys_are_keys_that_may_be_overridden(planned):
    runs = planned(
        ("  comparison: {models", "  comparison: &first {models"),
        ("optimizers:\n", "  second: {<<: *first, seeds: [1]}\noptimizers:\n"),
    )
    assert [(run.experiment, run.spec.seed) for run in runs] == [("comparison", 0), ("second", 1)]


def test_a_list_of_mappings_may_be_merged_and_a_merge_may_be_merged():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: [*b, *a], z: 3}\nd: {<<: *a}\n"
    assert yaml.load(text, Loader=StrictLoader) == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 2, "z": 3},
        "d": {"x": 1, "y": 1},
    }


@pytest.mark.parametrize(
    ("field", "depth", "line"),
    [
        (("second", "seeds"), 2, 5),
        (("second", "models", "1"), 3, 4),
        (("second", "models"), 2, 2),
        (("second", "models", "2"), 2, 2),
        (("second", "lr", "0"), 2, 1),
        (("124", "x"), 2, 6),
        (("a.b",), 1, 7),
        (("a.b", "c"), 2, 7),
        (("a.b.c",), 1, 8),
        (("a.b.c", "args"), 1, 8),
    ],
)
def test_the_line_of_a_field_is_found_in_what_is_merged_and_in_lists(field, depth, line):
    text = (
        "first: &f {lr: 1}\nbase: &b {models: [\n  a,\n  b]}\n"
        "second: {<<: [*b, *f], seeds: [0]}\n'124': {x: 1}\na.b: {c: 1}\na.b.c: 1\n"
    )
    assert line_of(text, field) == (depth, line)
    assert line_of(text, ("third", *field)) is None


BROKEN = [
    ("a: [", "in line 1: .*"),
    ("a: 1\nb:\n\tc: 1\n", r"in line 3: .*\\t"),
    ("a: 1\nb: 2\na: 3\n", "in line 3: the key 'a' stands twice"),
    ("a: {124: 1, '124': 2}", "in line 1: the key '124' stands twice"),
    ("a: &a {b: 1}\nc: {b: 2, <<: *a, b: 3}", "in line 2: the key 'b' stands twice"),
    ("a: 1\n---\nb: 1\n", "in line 2: .*single document"),
    ("a: 1\nb: !!python/object:os.path x\n", "in line 2: .*python/object"),
    ("a: 1\nb: !!set {c}\n", "in line 2: .*set"),
    ("a: &a {b: *a}\n", "in line 1: an anchor contains itself"),
    ("a: *b\n", "in line 1: .*undefined alias"),
    (b"a: 1\nb: \xff\n", "in line 2: it must be UTF-8"),
    ("a: 1\nb: \x07\n", "in line 2: .*control character"),
    ("a: 1\n? [b]\n: 1\n", "in line 2: a key must be text"),
    ("a: 1\nb: {<<: 1}\n", "in line 2: << must be a mapping"),
    ("a: &a {b: 1}\nc: {<<: *a, <<: *a}\n", "in line 2: the key '<<' stands twice"),
]


@pytest.mark.parametrize("content", ["", "# nothing\n", "- a\n", "text\n", "5\n"])
@pytest.mark.parametrize("read", [lambda path: load_profile(str(path)), None])
def test_a_file_that_holds_no_mapping_is_named(tmp_path, read, content):
    path = tmp_path / "some.yaml"
    path.write_text(content)
    expected = r"^some.yaml is (empty|a list|a str|a int), but it must be a mapping"
    with pytest.raises(ConfigError, match=expected):
        (read or (lambda path: read_cluster(path, ["tiny"])))(path)


@pytest.mark.parametrize(("content", "message"), BROKEN)
@pytest.mark.parametrize("kind", ["profile", "cluster"])
def test_the_line_of_broken_yaml_is_named(tmp_path, kind, content, message):
    path = tmp_path / "some.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"^some.yaml is not valid YAML {message}") as raised:
        load_profile(str(path)) if kind == "profile" else read_cluster(path, ["tiny"])
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(path) == {"a": 1, "b": 2}


def cluster(tmp_path: Path, text: str):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return read_cluster(path, ["tiny"])


def test_a_cluster_file_may_merge_keys(tmp_path):
    settings = cluster(
        tmp_path,
        "slurm:\n  default: &d {memory_gb: 4, time_minutes: 10}\n"
        "  by_model:\n    tiny: {<<: *d, memory_gb: 8}\n",
    )
    assert settings.job_of("tiny").memory_gb == 8
    assert settings.job_of("tiny").time_minutes == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs: 5\n", "^cluster.yaml: slurm is missing"),
        ("slurm:\n", "^cluster.yaml, line 1: slurm is None, but it should be a valid dict"),
        ("slurm: {}\n", "^cluster.yaml, line 1: slurm.default is missing"),
        ("slurm:\n  default: &d {memory_gb: 4, time_minutes: 4:00:00}\n", "line 2: .*4:00:00, but"),
        (
            "slurm:\n  default: {memory_gb: 4, time_minutes: '240'}\n",
            "line 2: .*time_minutes is '2",
        ),
        ("slurm:\n  default: {memory_gb: true, time_minutes: 2}\n", "line 2: .*memory_gb is True"),
        (
            "slurm:\n  default:\n    memory_gb: 4\n    time_minutes: 5\n"
            "    sbatch: {exclusive: yes}\n",
            "line 5: .*exclusive is yes, but it should be a decimal number, true, false",
        ),
        (
            "slurm:\n  default:\n    memory_gb: 4\n    time_minutes: 5\n    setup: module load x\n",
            "line 5: slurm.default.setup is 'module load x', but it should be a list",
        ),
    ],
)
def test_a_mistake_in_a_cluster_file_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        cluster(tmp_path, text)


def test_the_settings_behind_a_plan_can_be_read_again(tmp_path, text_file):
    values = profile_values(text_file)
    values["optimizers"] = {
        name: {"label": label, "class": "torch.optim.SGD", "args": {"dim": label}, "source": "x"}
        for name, label in (("1e3", "08"), ("no", "2e5"), ("007", "0x1"))
    }
    values["experiments"] = {"1e3": {"models": ["tiny"], "optimizers": ["1e3", "no"], "seeds": [0]}}
    (tmp_path / "first.yaml").write_text(json.dumps(values))
    profile = load_profile(str(tmp_path / "first.yaml"))
    runs = plan(profile)
    (tmp_path / "again.yaml").write_text(dump_used(profile, runs))
    assert plan(load_profile(str(tmp_path / "again.yaml"))) == runs


def test_the_projects_files_mean_the_same_to_another_reader_of_yaml():
    class WithExponents(yaml.SafeLoader):
        """PyYAML's own loader, which here also reads 1e-3 as a number."""

    pattern = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    WithExponents.add_implicit_resolver("tag:yaml.org,2002:float", pattern, [*"-+.0123456789"])
    for path in CONFIG_DIR.rglob("*.yaml"):
        assert read_yaml(path) == yaml.load(path.read_text(), Loader=WithExponents), path.name
