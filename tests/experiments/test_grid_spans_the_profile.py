"""A profile becomes the runs it names; a run's identity is all that its result depends on."""

import pytest

from experiments.config import CONFIG_DIR, load_profile, profile_names
from experiments.grid import RunSpec, plan
from tests.conftest import profile_values, write_profile


@pytest.fixture
def paths(tmp_path, text_file):
    """Return a function that makes the runs' paths of a changed profile."""

    def make(change=lambda values: None):
        values = profile_values(text_file)
        change(values)
        profile = load_profile(str(write_profile(tmp_path / "mine.yaml", values)))
        return {run.spec.path for run in plan(profile)}

    return make


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_project_is_accepted(name):
    runs = plan(load_profile(name))
    assert len({run.spec.path for run in runs}) == len(runs) > 0


def test_laptop_is_two_sizes_six_optimizers_and_three_seeds_of_the_smaller():
    runs = plan(load_profile("laptop"))
    seeds = {(r.spec.model_name, r.spec.optimizer.name, r.spec.seed) for r in runs}
    optimizers = {"adamw", "powerstep", "powerstep-int8", "adafactor", "lion", "adam-mini"}
    pico = {("gpt2-pico", name, seed) for name in optimizers for seed in (0, 1, 2)}
    nano = {("gpt2-nano", name, 0) for name in optimizers}
    assert seeds == pico | nano


def test_a_path_tells_model_optimizer_lr_and_seed(paths):
    assert any(path.startswith("tiny/adamw/lr0.01_seed1_") for path in paths())


def test_another_value_is_another_run(paths):
    assert not paths() & paths(lambda values: values["training"].update(steps=24))
    assert not paths() & paths(lambda values: values["models"]["tiny"].update(layers=2))
    assert not paths() & paths(lambda values: values["datasets"]["tiny"].update(vocab_size=290))


def test_changing_one_optimizer_changes_only_its_runs(paths):
    mine = {"label": "Mine", "class": "torch.optim.SGD", "args": {"momentum": 0.9}, "source": "me"}

    def add(values):
        values["optimizers"] = {"mine": mine}
        values["experiments"]["comparison"]["optimizers"].append("mine")

    def change(values):
        add(values)
        values["optimizers"]["mine"] = mine | {"args": {"momentum": 0.8}}

    def relabel(values):
        add(values)
        values["optimizers"]["mine"] = mine | {"label": "Ours"}

    before, after = paths(add), paths(change)
    assert {path.split("/")[1] for path in before ^ after} == {"mine"}
    assert paths(relabel) == before


def test_a_run_that_two_experiments_need_is_one_run(paths):
    def repeat(values):
        values["experiments"]["again"] = values["experiments"]["comparison"]

    assert paths(repeat) == paths()


def test_an_experiment_may_change_the_training(paths):
    def shorten(values):
        values["experiments"]["comparison"]["training"] = {"steps": 8}

    assert not paths(shorten) & paths()


def test_a_spec_survives_json(tiny_plan):
    spec = tiny_plan()[0].spec
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.path == spec.path


def test_the_projects_files_explain_themselves():
    for path in CONFIG_DIR.glob("*.yaml"):
        assert path.read_text().startswith("#"), f"{path.name} has no comment at its top"
