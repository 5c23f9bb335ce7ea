"""A profile expands to its runs; a run's path hashes everything its result depends on."""

import re

import pytest

from analysis.papers.numbers import load_paper
from experiments.models.build import model_on_meta
from experiments.optimizers.source_code import source_sha256
from experiments.plan.grid import plan
from experiments.plan.reading import CONFIG_DIR, load_profile, profile_names
from experiments.plan.spec import RunSpec
from experiments.plan.sweeps.ladder import check_ladder
from tests.conftest import profile_values, write_profile


@pytest.fixture
def paths(tmp_path, text_file):
    """Return a function that changes the profile and returns the paths of its runs."""

    def make(change=lambda values: None):
        values = profile_values(text_file)
        change(values)
        profile = load_profile(str(write_profile(tmp_path / "mine.yaml", values)))
        return {run.spec.path for run in plan(profile)}

    return make


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_project_is_accepted(name):
    rows = [run.row() for run in plan(load_profile(name))]
    keys = {(row["experiment"], row["argument"], row["value"], row["run"]) for row in rows}
    assert len(keys) == len(rows) > 0


@pytest.mark.parametrize("name", ["smoke", "laptop", "study", "paper"])
def test_every_experiment_of_the_paper_is_in_each_profile(name):
    wanted = {"comparison", "sensitivity", "quantization", "large_scale", "learning_rate", "stacey"}
    assert wanted <= {run.experiment for run in plan(load_profile(name))}


@pytest.mark.parametrize("name", ["laptop", "study", "gpu", "paper"])
def test_every_optimizer_has_several_learning_rates_to_choose_from(name):
    tried, following = {}, set()
    for run in plan(load_profile(name)):
        if run.experiment == "learning_rate":
            cell = run.spec.model_name, run.spec.optimizer.name
            if run.extension:
                following.add(cell)
            else:
                tried.setdefault(cell, set()).add(run.spec.training.lr)
    numbers = {cell: len(lrs) for cell, lrs in tried.items()}
    # Where the numbers differ, no optimizer ends at the edge of its own: further rates follow.
    assert len({*numbers.values()}) == 1 or following == {*tried}
    assert min(numbers.values()) >= 3


def test_the_default_profile_replicates_the_study():
    laptop, study = (
        {run.spec.path for run in plan(load_profile(name)) if not run.extension}
        for name in ("laptop", "study")
    )
    assert laptop <= study


@pytest.mark.parametrize("name", ["study", "gpu"])
def test_a_ladder_has_increasing_sizes_and_twenty_tokens_a_parameter(name):
    profile = load_profile(name)
    planned = plan(profile)
    check_ladder(profile, planned)
    for model in profile.ladder:
        spec = next(run.spec for run in planned if run.spec.model_name == model)
        size = sum(tensor.numel() for tensor in model_on_meta(spec.model).parameters())
        assert spec.training.tokens >= 19.9 * size


def test_lion_may_choose_the_rates_that_its_paper_recommends():
    rates = {"adamw": set(), "lion": set()}
    for run in plan(load_profile("study")):
        name, model = run.spec.optimizer.name, run.spec.model_name
        counts = name == "lion" or not run.extension
        if run.experiment == "learning_rate" and model == "gpt2-83k" and name in rates and counts:
            rates[name].add(run.spec.training.lr)
    # arXiv:2302.06675, section 5: 3 to 10 times smaller than AdamW's.
    for factor in (3, 10):
        assert min(rates["lion"]) * 0.99 <= min(rates["adamw"]) / factor <= max(rates["lion"])


def test_the_plan_of_the_paper_trains_its_models_as_it_says():
    published = load_paper()
    rows = {row["model"]: row for row in (run.row() for run in plan(load_profile("paper")))}
    assert rows.keys() == published["models"].keys()
    for name, theirs in published["models"].items():
        ours = rows[name]
        assert ours["dataset"].removesuffix("-deepseek") == theirs["dataset"]
        assert ours["shared_lr"] == theirs["lr"]
        assert ours["planned_steps"] == theirs["steps"]
        for key in ("batch_size", "context"):
            assert ours[key] == theirs[key]
        for key, value in published["training"].items():
            assert ours[key] == value


def test_study_has_every_optimizer_for_processors_and_three_seeds_of_what_decides():
    profile = load_profile("study")
    runs = [run.spec for run in plan(profile)]
    every = {name for name, entry in profile.optimizers.items() if not entry.extra}
    assert {spec.optimizer.name for spec in runs} == every
    for model in profile.ladder[:4]:
        for optimizer in ("adamw", "powerstep"):
            cell = [s for s in runs if (s.model_name, s.optimizer.name) == (model, optimizer)]
            assert {spec.seed for spec in cell} >= {0, 1, 2}


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


OWN_CODE = {
    "mine_optimizer.py": "import torch, data, mine_helper\nclass Mine(torch.optim.SGD): ...\n",
    "mine_helper.py": "RATE = 1\n",
    "mine_folder/optimizer.py": "from .inner import rate\nfrom mine_optimizer import Mine\n",
    "mine_folder/inner/rate.py": "RATE = 1\n",
    "mine_package/__init__.py": "def make():\n    from .deep.optimizer import Mine\n",
    "mine_package/deep/__init__.py": "",
    "mine_package/deep/optimizer.py": "from ..common import *\nfrom . import sibling\n",
    "mine_package/deep/sibling.py": "",
    "mine_package/common.py": "",
    "mine_package/other.py": "import mine_optimizer\n",
    "data/texts.txt": "of no module",
}


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Write a user's modules and packages, some without __init__.py; return their folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in OWN_CODE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("class_path", "files"),
    [
        ("mine_optimizer.Mine", {"mine_optimizer.py", "mine_helper.py"}),
        (
            "mine_folder.optimizer.Mine",
            {"mine_folder/optimizer.py", "mine_folder/inner/rate.py"}
            | {"mine_optimizer.py", "mine_helper.py"},
        ),
        (
            "mine_package.Mine",
            {"mine_package/__init__.py", "mine_package/common.py"}
            | {f"mine_package/deep/{name}.py" for name in ("__init__", "optimizer", "sibling")},
        ),
    ],
)
def test_the_code_of_an_optimizer_is_its_module_and_what_that_imports(own_code, class_path, files):
    before = source_sha256(class_path)
    for name in OWN_CODE:
        with (own_code / name).open("a") as file:
            file.write("\n# another line\n")
        assert (source_sha256(class_path) != before) == (name in files), name
        before = source_sha256(class_path)


def test_code_that_moved_is_the_same(own_code, tmp_path_factory, monkeypatch):
    before = source_sha256("mine_folder.optimizer.Mine")
    moved = tmp_path_factory.mktemp("elsewhere") / "deeper"
    own_code.rename(moved)
    monkeypatch.chdir(moved)
    assert source_sha256("mine_folder.optimizer.Mine") == before


@pytest.mark.parametrize(
    "class_path", ["torch.optim.AdamW", "powerstep.PowerStep", "nosuch.Mine", "__main__.Mine"]
)
def test_installed_code_is_not_read(class_path):
    assert source_sha256(class_path) is None


def test_an_edit_of_the_users_own_class_changes_its_runs_alone(paths, own_code):
    def add(values):
        mine = {"label": "Mine", "class": "mine_optimizer.Mine", "source": "me"}
        values["optimizers"] = {"mine": mine}
        values["experiments"]["comparison"]["optimizers"].append("mine")

    before = paths(add)
    with (own_code / "mine_optimizer.py").open("a") as file:
        file.write("# another line\n")
    assert {path.split("/")[1] for path in before ^ paths(add)} == {"mine"}


def test_a_run_that_two_experiments_need_is_one_run(paths):
    def repeat(values):
        values["experiments"]["again"] = values["experiments"]["comparison"]

    assert paths(repeat) == paths()


def test_a_model_may_be_trained_in_its_own_way(paths):
    def shorten(values):
        values["by_model"] = {"tiny": {"training": {"steps": 8}}}

    assert not paths(shorten) & paths()


def test_a_setting_at_its_default_leaves_every_run_as_it_was(paths):
    assert paths(lambda values: values["training"].update(schedule="cosine")) == paths()
    assert not paths(lambda values: values["training"].update(schedule="constant")) & paths()


def test_the_papers_layout_is_no_part_of_what_a_run_is(paths):
    def spread(values):
        values["by_model"] = {"tiny": {"layout": {"devices": 8, "tp": 2}}}

    assert paths(spread) == paths()


def test_a_spec_survives_json(tiny_plan):
    spec = tiny_plan()[0].spec
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.path == spec.path


def test_the_projects_files_explain_themselves():
    for path in CONFIG_DIR.glob("*.yaml"):
        assert path.read_text().startswith("#"), f"{path.name} does not begin with a comment"


def test_datasets_of_the_hub_are_pinned_to_a_commit():
    datasets = load_profile("paper").datasets.values()
    of_hub = [dataset for dataset in datasets if dataset.kind == "huggingface"]
    assert of_hub
    for dataset in of_hub:
        assert re.fullmatch("[0-9a-f]{40}", dataset.revision)
