"""Two processes train a run as one does, and resume checkpoints of one or two processes."""

import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from experiments.runs.folder import RunFolder
from experiments.settings import ConfigError, parse
from experiments.training.parallel import ALONE, Parallel
from experiments.training.train import train
from tests.conftest import profile_values, write_profile
from tests.experiments.trains_several import PowerCutError, cut_at

ROOT = Path(__file__).parent.parent.parent
TIMES = ["step_seconds", "optimizer_seconds"]
COMPARED = ["train_loss", "val_loss", "grad_norm", "lr", "update_rms"]
COMPARED += ["final_val_loss", "final_val_error"]
DDP = {"tasks_per_node": 2}
FSDP = DDP | {"strategy": "fsdp"}
TP = FSDP | {"tensor_parallel": 2}
CUT = 6  # the step at which a run is interrupted, two steps after its checkpoint

_QWEN = {
    "family": "qwen3",
    "layers": 2,
    "width": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "mlp_width": 64,
    "rope_theta": 1e4,
    "tie_embeddings": True,
    "context": 16,
    "vocab_size": 300,
}
MODELS = {
    "gpt": {
        "family": "gpt2",
        "layers": 2,
        "width": 32,
        "heads": 2,
        "context": 16,
        "vocab_size": 300,
    },
    "qwen": _QWEN,
    # Half of each tensor is a whole number of quantization blocks of 128.
    "even": {
        "family": "gpt2",
        "layers": 1,
        "width": 256,
        "heads": 2,
        "context": 16,
        "vocab_size": 300,
    },
}
OPTIMIZERS = {n: e for n, e in load_profile("laptop").optimizers.items() if not e.extra}
REST = ["embeddings", "output", "norms", "biases"]
OTHERS = {
    "diverging": {"class": "torch.optim.SGD"},
    "pair": {
        "groups": [
            {
                "roles": ["hidden_matrices"],
                "class": "torch.optim.SGD",
                "args": {"momentum": 0.9},
                "lr_factor": 100.0,
            },
            {"roles": REST, "class": "powerstep.PowerStep"},
        ]
    },
    "schedule-free": {"class": "tests.experiments.optimizers_that_switch.ScheduleFree"},
}
SHARDED = [name for name, entry in OPTIMIZERS.items() if entry.sharded and name != "adamw-int8"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory, text_file):
    """Return the spec of each run, by model and optimizer."""
    values = profile_values(text_file, steps=8, lr=1e-3)
    values["models"] = MODELS
    values["optimizers"] = {
        name: {"label": name, "source": "a test"} | entry for name, entry in OTHERS.items()
    }
    values["experiments"]["comparison"] = {
        "models": list(MODELS),
        "optimizers": [*OPTIMIZERS, *OTHERS],
        "seeds": [0],
    }
    path = write_profile(tmp_path_factory.mktemp("several") / "several.yaml", values)
    runs = [run.spec for run in plan(load_profile(str(path)))]
    return {(spec.model_name, spec.optimizer.name): spec for spec in runs}


def changed(spec, **training):
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def cut(spec, corpus, folder):
    """Train a run in one process and interrupt it at step CUT."""
    restore = cut_at(CUT)
    try:
        with pytest.raises(PowerCutError):
            train(spec, corpus, folder)
    finally:
        restore()


@pytest.fixture(scope="module")
def trained(specs, tiny_corpus, tmp_path_factory):
    """Train all runs, with two processes and with one; return the folder of the results."""
    folder = tmp_path_factory.mktemp("trained")
    jobs = []

    def add(name, spec, parallel, cut_at=None):
        (folder / name).mkdir(parents=True, exist_ok=True)
        job = {"spec": json.loads(spec.model_dump_json(by_alias=True)), "parallel": parallel}
        job |= {"corpus": str(tiny_corpus), "folder": str(folder / name), "cut_at": cut_at}
        jobs.append(job)

    def one(name, spec):
        if not (folder / name).exists():
            train(spec, tiny_corpus, folder / name)

    for model, optimizer, way in [
        ("gpt", "adamw", DDP),
        ("gpt", "adamw", FSDP),
        ("qwen", "powerstep", DDP),
        ("qwen", "powerstep", FSDP),
        ("qwen", "powerstep", TP),
        ("qwen", "adamw", TP),
        ("qwen", "pair", DDP),
        ("qwen", "pair", FSDP),
        ("gpt", "schedule-free", FSDP),
        *(("gpt", optimizer, FSDP) for optimizer in SHARDED if optimizer != "adamw"),
    ]:
        spec = specs[model, optimizer]
        one(f"{model} {optimizer} one", spec)
        add(f"{model} {optimizer} {name_of(way)}", spec, way)
    accumulating = changed(
        specs["gpt", "powerstep"], micro_batch_size=1, val_sequences=5, final_val_sequences=7
    )
    one("accumulating one", accumulating)
    add("accumulating ddp", accumulating, DDP)
    add("accumulating fsdp", accumulating, FSDP)
    low = changed(specs["qwen", "powerstep"], precision="bf16-true")
    one("bf16 one", low)
    add("bf16 fsdp", low, FSDP)
    add("diverging fsdp", changed(specs["gpt", "diverging"], lr=1e30, weight_decay=0.0), FSDP)
    stateless = specs["gpt", "diverging"]
    add("stateless", stateless, FSDP)
    add("stateless, cut", stateless, FSDP, cut_at=CUT)
    add("stateless, cut", stateless, FSDP)
    for optimizer in ("pair", "schedule-free"):
        spec = specs["qwen" if optimizer == "pair" else "gpt", optimizer]
        add(f"{optimizer}, cut", spec, FSDP, cut_at=CUT)
        add(f"{optimizer}, cut", spec, FSDP)
        cut(spec, tiny_corpus, folder / f"{optimizer} one to fsdp")
        add(f"{optimizer} one to fsdp", spec, FSDP)
    for optimizer in ("adamw", "powerstep-int8"):
        spec = specs["even", optimizer]
        one(f"even {optimizer} one", spec)
        add(f"even {optimizer} fsdp", spec, FSDP)
        cut(spec, tiny_corpus, folder / f"{optimizer} one to ddp")
        shutil.copytree(folder / f"{optimizer} one to ddp", folder / f"{optimizer} one to fsdp")
        add(f"{optimizer} one to ddp", spec, DDP)
        add(f"{optimizer} one to fsdp", spec, FSDP)
        for way in (DDP, FSDP):
            add(f"{optimizer} {name_of(way)} to one", spec, way, cut_at=CUT)
            add(f"{optimizer} {name_of(way)} to fsdp", spec, way, cut_at=CUT)
            add(f"{optimizer} {name_of(way)} to fsdp", spec, FSDP)
    for name in ("damaged ddp", "damaged fsdp"):
        shutil.copytree(folder / "adamw one to ddp", folder / name / "training")
        os.truncate(folder / name / "training" / "last.ckpt", 20_000)
        way = FSDP if name.endswith("fsdp") else DDP
        add(f"{name}/training", specs["even", "adamw"], way)
    # Here a shard is not a whole number of quantization blocks.
    cut(specs["qwen", "powerstep-int8"], tiny_corpus, folder / "blocks cut")
    add("blocks cut", specs["qwen", "powerstep-int8"], FSDP)
    add("blocks cut before", specs["qwen", "powerstep-int8"], FSDP, cut_at=CUT)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["tests.experiments.trains_several", str(folder / "jobs.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=450)
    assert done.returncode == 0, done.stderr[-3000:]
    for optimizer in ("adamw", "powerstep-int8"):
        for way in ("ddp", "fsdp"):
            train(specs["even", optimizer], tiny_corpus, folder / f"{optimizer} {way} to one")
    return folder


def name_of(way):
    return "tp" if way == TP else way.get("strategy", "ddp")


def metrics(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns=TIMES)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def assert_close(folder, other, tolerance=1e-4):
    mine, expected = metrics(folder), metrics(other)
    assert mine["step"].tolist() == expected["step"].tolist()
    for column in COMPARED:
        np.testing.assert_allclose(mine[column], expected[column], atol=tolerance, err_msg=column)


@pytest.mark.parametrize(
    "name",
    [
        *("gpt adamw ddp", "gpt adamw fsdp", "qwen powerstep ddp", "qwen powerstep fsdp"),
        *("qwen powerstep tp", "qwen adamw tp", "accumulating ddp", "accumulating fsdp"),
        *("qwen pair ddp", "qwen pair fsdp", "gpt schedule-free fsdp"),
    ],
)
def test_two_processes_train_as_one(trained, name):
    one = trained / f"{name.rsplit(' ', 1)[0]} one"
    assert_close(trained / name, one, tolerance=1e-5)
    for field in ("status", "steps", "tokens", "parameters", "state_bytes"):
        assert summary(trained / name)[field] == summary(one)[field]
    assert summary(trained / name)["provenance"]["processes"] == 2


@pytest.mark.parametrize("optimizer", [name for name in SHARDED if name != "adamw"])
def test_optimizers_step_on_sharded_tensors(trained, optimizer):
    # A shard may cut a quantization block. 4- and 8-bit values then differ by up to one code.
    coarse = {"powerstep-int8": 1e-3, "powerstep-int4": 1e-2}
    tolerance = coarse.get(optimizer, 1e-4)
    assert_close(trained / f"gpt {optimizer} fsdp", trained / f"gpt {optimizer} one", tolerance)


def test_bf16_parameters_are_rounded_as_in_one_process(trained):
    first, expected = metrics(trained / "bf16 fsdp"), metrics(trained / "bf16 one")
    # The initial weights are equal; gradients summed in bf16 agree to about three digits.
    assert first["train_loss"][0] == pytest.approx(expected["train_loss"][0], abs=1e-3)
    np.testing.assert_allclose(first["val_loss"], expected["val_loss"], atol=2e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "powerstep-int8"])
@pytest.mark.parametrize(
    "way", ["one to ddp", "one to fsdp", "ddp to one", "ddp to fsdp", "fsdp to one"]
)
def test_a_run_goes_on_with_another_number_of_processes(trained, optimizer, way):
    assert_close(trained / f"{optimizer} {way}", trained / f"even {optimizer} one")


@pytest.mark.parametrize("optimizer", ["adamw", "powerstep-int8"])
def test_a_run_goes_on_exactly_with_as_many(trained, optimizer):
    pd.testing.assert_frame_equal(
        metrics(trained / f"{optimizer} fsdp to fsdp"),
        metrics(trained / f"even {optimizer} fsdp"),
        check_exact=True,
    )


@pytest.mark.parametrize("model", ["qwen pair", "gpt schedule-free"])
def test_optimizers_with_parts_or_modes_go_on(trained, model):
    optimizer = model.split()[1]
    pd.testing.assert_frame_equal(
        metrics(trained / f"{optimizer}, cut"), metrics(trained / f"{model} fsdp"), check_exact=True
    )
    assert_close(trained / f"{optimizer} one to fsdp", trained / f"{model} one")


def test_an_optimizer_without_state_goes_on(trained):
    pd.testing.assert_frame_equal(
        metrics(trained / "stateless, cut"), metrics(trained / "stateless"), check_exact=True
    )


@pytest.mark.parametrize("name", ["damaged ddp", "damaged fsdp"])
def test_all_processes_start_anew_where_the_checkpoint_is_damaged(trained, name):
    assert_close(trained / name / "training", trained / "even adamw one")
    assert (trained / name / "training" / "last.ckpt.damaged").stat().st_size == 20_000
    assert len(RunFolder(trained / name).history.events("restarted")) == 1


def test_codes_whose_blocks_another_number_of_processes_cut_are_refused(
    trained, specs, tiny_corpus
):
    for rank in (0, 1):
        message = (trained / "blocks cut" / f"refused_{rank}").read_text()
        assert "blocks of codes were cut by another number of processes" in message
    with pytest.raises(ConfigError, match="blocks of codes were cut by another number"):
        train(specs["qwen", "powerstep-int8"], tiny_corpus, trained / "blocks cut before")


def test_all_processes_end_where_a_loss_is_not_finite(trained):
    result = summary(trained / "diverging fsdp")
    assert result["status"] == "diverged"
    assert result["steps"] < 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks_per_node": 0}, "tasks_per_node is 0, but it should be greater than 0"),
        ({"strategy": "zero"}, "strategy is 'zero', but it should be 'ddp' or 'fsdp'"),
        (TP | {"tasks_per_node": 3}, "tensor_parallel is 2, but it must divide tasks_per_node, 3"),
        (DDP | {"tensor_parallel": 2}, "tensor_parallel is 2, but with strategy ddp it must be 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse(Parallel, settings)


@pytest.mark.parametrize(
    ("model", "training", "settings", "message"),
    [
        ("gpt", {}, {"tasks_per_node": 3}, r"split over 3 processes, .* training.batch_size, 4"),
        ("gpt", {}, {"nodes": 8}, "split over 8 processes"),
        (
            "gpt",
            {"batch_size": 12, "micro_batch_size": 4},
            {"tasks_per_node": 2},
            "6 sequences of a batch of gpt, but that must be a multiple of .*micro_batch_size, 4",
        ),
        ("gpt", {}, TP, "slurm.tensor_parallel is 2, but for gpt it must be 1"),
        (
            "qwen",
            {},
            TP | {"tensor_parallel": 4, "tasks_per_node": 4},
            "tensor_parallel is 4, but it must divide the kv_heads of qwen, 2",
        ),
    ],
)
def test_a_run_that_cannot_be_shared_is_refused(specs, model, training, settings, message):
    with pytest.raises(ConfigError, match=message):
        Parallel(**settings).check(changed(specs[model, "adamw"], **training), ("slurm",))


def test_the_parts_of_a_batch_are_the_batch():
    parallel = Parallel(nodes=2, tasks_per_node=4, strategy="fsdp", tensor_parallel=2)
    batch = list(range(24))
    parts = [batch[parallel.part(24, rank)] for rank in range(8)]
    assert [*chain(*parts[::2])] == batch
    assert parts[::2] == parts[1::2]
    assert batch[ALONE.part(24, 0)] == batch
