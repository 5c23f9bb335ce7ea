"""Steps are timed per parameter, and each peak of memory is that of a process of its own."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.__main__ import main
from experiments.models.build import model_on_meta
from experiments.plan.reading import load_profile
from experiments.studies import machine, peak_memory, step_time
from experiments.studies.step_cost import RELATIVE_TO, time_rounds

CPU = torch.device("cpu")
SHAPES = {"embed.weight": (64, 128), "layers.0.attn.qkv_proj": (384, 128), "layers.0.ln_1": (128,)}
QUARTILES = {"_low": 25, "": 50, "_high": 75}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Return the table of a small model, measured in three processes."""
    path = tmp_path_factory.mktemp("peaks") / "peak_memory.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peak_memory, "MODEL", "gpt2-nano")
        main(["peak-memory", "--output", str(path)])
    return pd.read_csv(path).set_index("optimizer")


def test_a_step_has_a_time_per_parameter(monkeypatch, tmp_path):
    monkeypatch.setattr(step_time, "gpt2_shapes", lambda: SHAPES)
    monkeypatch.setattr(step_time, "ROUNDS", 3)
    monkeypatch.setattr(machine, "_MATRIX", 512)
    main(["step-cost", "--output", str(tmp_path / "step_cost.csv")])
    table = pd.read_csv(tmp_path / "step_cost.csv").set_index("optimizer")
    assert list(table.index) == list(step_time.NAMES)
    assert (table["parameters"] == 64 * 128 + 384 * 128 + 128).all()
    assert table["ns_per_parameter"].to_numpy() == pytest.approx(
        (table["step_ms"] * 1e6 / table["parameters"]).to_numpy()
    )
    assert (table["ns_per_parameter_low"] <= table["ns_per_parameter"]).all()
    assert (table["ns_per_parameter"] <= table["ns_per_parameter_high"]).all()
    assert (table.loc[RELATIVE_TO, ["ratio", "extra_ns_per_parameter"]] == [1, 0]).all()
    assert (table["threads"] == torch.get_num_threads()).all()
    assert (table["gflops"] > 1).all()


def test_each_round_is_compared_with_the_reference_of_the_same_round():
    rng = np.random.default_rng(0)
    load = 1 + 9 * rng.random(20)  # of other programs, different in each round
    times = pd.DataFrame({name: 0.01 * load for name in step_time.NAMES})
    times["PowerStep fp32"] = 0.012 * load * (1 + 0.1 * rng.random(20))
    row = step_time._statistics(times, count=1_000_000).loc["PowerStep fp32"]
    expected = {
        "ratio": times["PowerStep fp32"] / times[RELATIVE_TO],
        "ns_per_parameter": times["PowerStep fp32"] * 1e3,  # 1e9 ns over 1e6 parameters
        "extra_ns_per_parameter": (times["PowerStep fp32"] - times[RELATIVE_TO]) * 1e3,
    }
    for name, values in expected.items():
        for suffix, percent in QUARTILES.items():
            assert row[name + suffix] == pytest.approx(np.percentile(values, percent))


def test_every_optimizer_takes_one_step_a_round_in_a_rotating_order():
    taken = []

    class Stepper:
        def __init__(self, name):
            self.name = name

        def step(self):
            taken.append(self.name)

    times = time_rounds({name: Stepper(name) for name in "abc"}, 3, CPU)
    assert "".join(taken) == "abc" + "bca" + "cab"
    assert times.shape == (3, 3)
    assert (times >= 0).all(axis=None)


def test_the_speed_counts_two_operations_for_each_product_of_two_numbers(monkeypatch):
    monkeypatch.setattr(machine, "_MATRIX", 100)
    monkeypatch.setattr(machine, "seconds", lambda step, device: 1e-3)
    assert machine.gflops(CPU) == pytest.approx(100 * 100 * (2 * 100) / 1e-3 / 1e9)


@pytest.mark.parametrize(
    ("command", "module", "columns"),
    [
        ("step-cost", step_time, ["step_ms", "ratio_low", "ns_per_parameter", "gflops"]),
        ("peak-memory", peak_memory, ["peak_bytes", "state_bytes"]),
    ],
)
def test_a_machine_with_too_little_memory_measures_nothing(
    command, module, columns, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(module, "available_bytes", lambda device: 4e9)
    main([command, "--output", str(tmp_path / "study.csv")])
    table = pd.read_csv(tmp_path / "study.csv")
    assert len(table) >= 3
    assert table[columns].isna().all(axis=None)
    assert (table["parameters"] == 124_373_760).all()
    assert "not measured: 4.0 GB are free, and 5.0 are needed" in capsys.readouterr().out


def test_the_bytes_of_a_small_model_are_the_known_ones(peaks):
    params = [*model_on_meta(load_profile("paper").models["gpt2-nano"]).parameters()]
    count = sum(param.numel() for param in params)
    assert list(peaks.index) == ["adamw", "powerstep", "powerstep-int8"]
    assert (peaks["parameters"] == count).all()
    assert (peaks["weights_and_gradients_bytes"] == 8 * count).all()
    # Each parameter also has a step counter of 4 bytes, and int8 a scale for a partial block.
    for name, per_parameter in {"adamw": 8, "powerstep": 4, "powerstep-int8": 1 + 4 / 128}.items():
        beyond = peaks.loc[name, "state_bytes"] - per_parameter * count
        assert 0 <= beyond <= 8 * len(params)


def test_a_peak_holds_weights_gradients_and_state(peaks):
    held = peaks["weights_and_gradients_bytes"] + peaks["state_bytes"]
    assert (peaks["peak_bytes"] > held).all()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is the system's")
def test_a_peak_is_of_its_own_process_and_counts_freed_memory():
    ballast = torch.ones(200_000_000)  # 800 MB, more than the new process takes
    script = (
        "import torch\n"
        "from experiments.studies.machine import peak_bytes, used_bytes\n"
        "cpu = torch.device('cpu')\n"
        "print(peak_bytes(cpu), used_bytes(cpu))\n"
        "torch.ones(50_000_000)\n"
        "print(peak_bytes(cpu), used_bytes(cpu))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True
    )
    (peak, used), (peak_after, used_after) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    assert peak < ballast.nbytes
    assert peak_after - used == pytest.approx(200e6, rel=0.1)
    assert used_after - used < 20e6


def test_a_process_that_fails_leaves_a_gap(monkeypatch, capfd):
    monkeypatch.setattr(peak_memory, "OPTIMIZERS", ("adamw",))
    monkeypatch.setattr(peak_memory, "RETURN_FREED_MEMORY", {"PYTHONHOME": "nonesuch"})
    (row,) = peak_memory._rows("gpt2-nano")
    assert np.isnan(row["peak_bytes"])
    assert "not measured: adamw ended with exit code 1" in capfd.readouterr().out
