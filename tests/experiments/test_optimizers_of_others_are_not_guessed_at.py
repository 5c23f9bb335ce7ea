"""Any torch optimizer is trained, resumed and measured correctly, or refused before training."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.models.build import model_on_meta
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.settings import OptimizerSettings, OptimizerSpec, optimizer_spec
from experiments.optimizers.state_bytes import state_bytes
from experiments.plan.grid import plan
from experiments.plan.preflight import check_runs
from experiments.plan.reading import lines_named, load_profile
from experiments.settings import ConfigError
from experiments.studies import state_memory as memory
from experiments.training.checkpoint_file import CheckpointFile
from experiments.training.train import train
from tests.conftest import profile_values, train_until_power_cut, write_profile
from tests.experiments import optimizers_of_others as others

OTHERS = others.__name__
TIMES = ["step_seconds", "optimizer_seconds"]


@pytest.fixture
def run_of(tiny_plan):
    """Return a function that makes a tiny run with a class of optimizers_of_others or torch."""

    def make(name, **training):
        path = name if "." in name else f"{OTHERS}.{name}"
        optimizer = OptimizerSpec(name="mine", class_path=path, args={})
        return tiny_plan(**training)[0].spec.model_copy(update={"optimizer": optimizer})

    return make


def metrics(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns=TIMES)


# -- resuming after an interruption


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("torch.optim.Adafactor", {}),
        ("ReadsNumbers", {}),
        ("StateLater", {}),
        ("StateUnderNames", {}),
        ("OddState", {}),
        ("OddState", {"precision": "bf16-true"}),
        ("Random", {}),
        ("OwnStateDict", {}),
        ("OtherStateDict", {}),
        ("TensorLr", {}),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    run_of, tiny_corpus, tmp_path, name, training
):
    run = run_of(name, **training)
    train(run, tiny_corpus, tmp_path / "whole")
    train_until_power_cut(run, tiny_corpus, tmp_path / "cut")
    train(run, tiny_corpus, tmp_path / "cut")
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), check_exact=True
    )


def test_wrapper_subclasses_are_loaded_as_lightning_asks_for_them(tmp_path):
    codes = torch.arange(3, dtype=torch.int8)
    state = {"momentum": others.Wrapped(codes, torch.ones(1))}
    CheckpointFile().save_checkpoint(state, tmp_path / "last.ckpt")
    with torch.serialization.safe_globals([others.Wrapped]):
        loaded = CheckpointFile().load_checkpoint(
            tmp_path / "last.ckpt", map_location=lambda storage, _: storage, weights_only=True
        )
    assert torch.equal(loaded["momentum"].codes, codes)


def test_a_learning_rate_that_is_a_tensor_is_scheduled_and_logged(run_of, tiny_corpus, tmp_path):
    run = run_of("TensorLr")
    train(run, tiny_corpus, tmp_path)
    warm_up = [1e-2 / 3, 2e-2 / 3]
    rest = [1e-2 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 9)) / 2) for k in range(10)]
    np.testing.assert_allclose(metrics(tmp_path)["lr"], warm_up + rest, rtol=1e-6)


# -- steps


def test_a_step_gets_no_closure(run_of, tiny_corpus, tmp_path):
    others.CLOSURES.clear()
    summary = train(run_of("NotesClosures"), tiny_corpus, tmp_path)
    assert summary["steps"] == 12
    assert others.CLOSURES == [None] * 12


def test_a_step_without_arguments_is_taken(run_of, tiny_corpus, tmp_path):
    assert train(run_of("NeedsNoClosure"), tiny_corpus, tmp_path)["status"] == "completed"


def test_an_error_in_a_step_is_told_with_its_line(run_of, tiny_corpus, tmp_path):
    expected = (
        rf"^optimizers.mine: the step of {OTHERS}.Sam raised AssertionError: SAM needs a closure"
        r" \(optimizers_of_others.py, line \d+\)$"
    )
    with pytest.raises(RuntimeError, match=expected):
        train(run_of("Sam"), tiny_corpus, tmp_path)


def test_an_error_that_comes_of_a_divergence_is_a_divergence(run_of, tiny_corpus, tmp_path):
    summary = train(run_of("RefusesNaN", lr=1e30), tiny_corpus, tmp_path)
    assert summary["status"] == "diverged"
    assert summary["steps"] < 12


# -- refused before training


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Put modules that raise on import on Python's path."""
    for name, text in {
        "broken_name": "\nx = undefined_name\n",
        "broken_syntax": "def f(:\n",
        "broken_import": "import no_such_module\n",
        "broken_helper": "import broken_name\n",
        "leaving": "import sys\nsys.exit(3)\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken_name.Mine", r"importable: NameError: name 'undefined.*\(broken_name.py, line 2\)"),
        ("broken_helper.Mine", r"importable: NameError: .*\(broken_name.py, line 2\)"),
        ("broken_syntax.Mine", r"importable: SyntaxError: .*\(broken_syntax.py, line 1\)"),
        ("broken_import.Mine", r"importable: ModuleNotFoundError: .*\(broken_import.py, line 1\)"),
        ("leaving.Mine", r"importable: SystemExit: 3 \(leaving.py, line 2\)"),
        ("no_such_module.Mine", r"importable: ModuleNotFoundError: No module named 'no_such_mod"),
        ("NoSuchClass", r"importable: AttributeError: "),
        ("NotAnOptimizer", r"it must be a subclass of torch.optim.Optimizer"),
        ("function", r"it must be a subclass of torch.optim.Optimizer"),
        ("torch.optim", r"it must be a subclass of torch.optim.Optimizer"),
        ("NoStep", r"it must have a method step"),
        ("torch.optim.LBFGS", r"its step needs a closure: add `closure: true` to the entry"),
        ("NeedsClosure", r"its step needs a closure: add `closure: true` to the entry"),
        ("NeedsModel", r"its step asks for model: it must work without arguments, or with a clos"),
        ("TakesAnything", r"its constructor must have an argument named lr"),
        ("NoLr", r"it must have parameter groups, each with an lr"),
        ("WantsModel", r"cannot be made: AttributeError: .*\(optimizers_of_others.py, line \d+\)"),
        ("WantsGpu", r"made: RuntimeError: needs a GPU, but there .*_of_others.py, line \d+\)"),
        ("Leaves", r"it cannot be made: SystemExit: no licence \(optimizers_of_oth.*, line \d+\)"),
        ("Abstract", r"refuses them: TypeError: Can't instantiate abstract class"),
    ],
)
def test_what_cannot_be_trained_is_told_in_the_plan(
    tmp_path, text_file, tiny_corpus, name, message
):
    path = name if "." in name else f"{OTHERS}.{name}"
    planned, corpora, profile = plan_of(path, tmp_path, text_file, tiny_corpus)
    with pytest.raises(ConfigError, match=message) as raised, lines_named(str(profile)):
        check_runs(planned, corpora)
    assert str(raised.value).startswith("mine.yaml, line ")
    assert ": optimizers.mine." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_extra_of_a_missing_library_is_told(tmp_path, text_file, tiny_corpus):
    path = "no_such_library.Optimizer"
    planned, corpora, _ = plan_of(path, tmp_path, text_file, tiny_corpus, extra="field")
    message = (
        r"ModuleNotFoundError: .*; pip install '\.\[field\]' installs it, and so does make EXTRA"
    )
    with pytest.raises(ConfigError, match=message):
        check_runs(planned, corpora)


def test_a_class_that_reads_parameters_is_made(tmp_path, text_file, tiny_corpus):
    path = f"{OTHERS}.ReadsParameters"
    check_runs(*plan_of(path, tmp_path, text_file, tiny_corpus)[:2])


def plan_of(path, tmp_path, text_file, tiny_corpus, **entry):
    """Return runs that use a class, the folder of their corpus, and the path of their profile."""
    values = profile_values(text_file)
    values["optimizers"] = {"mine": {"label": "x", "class": path, "source": "a test"} | entry}
    values["experiments"]["comparison"]["optimizers"] = ["mine"]
    profile = write_profile(tmp_path / "mine.yaml", values)
    planned = plan(load_profile(str(profile)))
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (corpora / planned[0].spec.corpus.path).symlink_to(tiny_corpus)
    return planned, corpora, profile


SHARED = torch.zeros(4, 8)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"GG": [torch.zeros(4, 4), torch.zeros(8, 8)]}, 4 * 16 + 4 * 64),  # as in SOAP
        ({"deep": {"pair": (torch.zeros(3), {"more": torch.zeros(2, dtype=torch.int8)})}}, 14),
        ({"moment": others.Wrapped(torch.zeros(128, dtype=torch.int8), torch.zeros(2))}, 128 + 8),
        ({"in list": [others.Wrapped(torch.zeros(8, dtype=torch.int8), torch.zeros(1))]}, 8 + 4),
        ({"a": SHARED, "b": SHARED, "c": SHARED.view(-1), "d": SHARED[2:]}, 4 * 32),
        ({"rows": [SHARED[0], SHARED[1]]}, 4 * 16),
        ({"meta": [torch.zeros(5, device="meta"), torch.zeros(5, device="meta")]}, 4 * 10),
        ({"sparse": torch.eye(4).to_sparse()}, 4 * 4 + 2 * 4 * 8),
        ({"object": SimpleNamespace(codes=torch.zeros(3).char(), scales=[torch.zeros(2)])}, 11),
        ({"array": np.zeros(3), "number": 1.0, "none": None, "name": "x"}, 24),
        ({}, 0),
    ],
)
def test_state_is_counted_where_it_lies(state, expected):
    optimizer = SimpleNamespace(state={torch.zeros(1): state})
    assert state_bytes(optimizer) == expected


def test_state_in_an_object_that_refers_to_itself_is_counted_once():
    moment = SimpleNamespace(codes=torch.zeros(8))
    moment.owner = [moment]
    assert state_bytes(SimpleNamespace(state={"a": moment})) == 32


def test_state_of_no_parameter_is_counted():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    optimizer.state["global"]["buffer"] = [torch.zeros(6)]
    assert state_bytes(optimizer) == 24


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Return a function that counts the state of AdamW and of other entries for a small GPT-2."""

    def count(**classes):
        paper = load_profile("paper")
        entries = {
            name: OptimizerSettings(label=name, source="a test", **{"class": path}, args=args)
            for name, (path, args) in classes.items()
        }
        by_model = {"gpt2-small": paper.by_model["gpt2-small"]}
        models = {"gpt2-small": paper.models["gpt2-pico"]}
        optimizers = {"adamw": paper.optimizers["adamw"]} | entries
        update = {"by_model": by_model, "models": models, "optimizers": optimizers}
        monkeypatch.setattr(memory, "load_profile", lambda _: paper.model_copy(update=update))
        memory.write_memory(tmp_path / "memory.csv")
        return pd.read_csv(tmp_path / "memory.csv").set_index("optimizer")

    return count


def test_what_cannot_be_counted_leaves_a_gap_with_a_reason(counted):
    rows = counted(
        reads=("torch.optim.Adafactor", {}),
        gone=("no_such_module.Mine", {}),
        leaves=(f"{OTHERS}.Leaves", {}),
        typo=("torch.optim.AdamW", {"betas": "$model.kv_heads"}),
        undecayed=("torch.optim.Rprop", {}),
    )
    numbers = ["state_bytes", "mib_per_device", "mib_per_device_as_paper"]
    gaps = rows.loc[["reads", "gone", "leaves", "typo"]]
    assert gaps[[*numbers, "mib_per_device_replicated"]].isna().all(axis=None)
    for name, reason in {
        "reads": "torch.optim.Adafactor cannot step without memory: RuntimeError: Tensor.item()",
        "gone": "optimizers.gone.class is 'no_such_module.Mine', but it must be importable",
        "leaves": "SystemExit: no licence",
        "typo": "optimizers.typo.args.betas is '$model.kv_heads'",
    }.items():
        assert reason in rows.loc[name, "reason"]
    rest = rows.loc[["adamw", "undecayed"]]
    assert rest["reason"].isna().all()
    # Per parameter, AdamW keeps two moments, and Rprop the last gradient and a step size. Both also
    # keep step counters.
    np.testing.assert_allclose(rest["state_bytes"], 8 * rest["parameters"], rtol=1e-3)


def test_what_is_kept_for_no_parameter_is_counted_at_full_size():
    settings = load_profile("paper").models["gpt2-pico"]
    model = model_on_meta(settings)
    entry = OptimizerSettings(label="x", source="a test", **{"class": f"{OTHERS}.StateUnderNames"})
    counts = memory.count_state(optimizer_spec("mine", entry, settings), model)
    assert sum(counts.values()) == 4  # one fp32 number


def test_an_argument_is_not_changed_by_the_class_that_gets_it(run_of):
    spec = OptimizerSpec(name="mine", class_path=f"{OTHERS}.Empties", args={"values": [1, 2]})
    build_optimizer(spec, torch.nn.Linear(2, 2), 0.1, 0.0)
    assert spec.args == {"values": [1, 2]}
