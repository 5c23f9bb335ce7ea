"""The benchmark's table lists every optimizer, and the state sizes are the known ones."""

import json

import pandas as pd
import pytest
import torch

from experiments.__main__ import main
from experiments.studies import bench, step_cost

# Matrices and a vector, as in a model; every size is a multiple of the block size, 128.
SHAPES = {"embed.weight": (64, 128), "layers.0.attn.qkv_proj": (384, 128), "layers.0.ln_1": (128,)}
STATE_BYTES = {
    step_cost.RELATIVE_TO: 8,
    "AdamW, for-loop": 8,
    "SGD with momentum, fused": 4,
    "PowerStep fp32": 4,
    "PowerStep bf16": 2,
    "PowerStep int8": 1 + 4 / 128,
    "PowerStep int4": 0.5 + 4 / 128,
    "PowerStep's formula, eager": 4,
    "SignSGD": 4,
    "pbSGDM": 4,
    "AdamS": 4,
    "Stacey(p,2)": 8,
    "AdamW int8, naive": 2 * (1 + 4 / 128),
    "Lion": 4,
}


@pytest.fixture(scope="module")
def table():
    names = list(step_cost.OPTIMIZERS)
    return step_cost.measure(SHAPES, names, rounds=2).set_index("optimizer")


def test_every_optimizer_has_a_row_in_its_place(table):
    assert list(table.index) == list(step_cost.OPTIMIZERS)


def test_what_is_not_installed_has_no_numbers(table):
    assert table.loc["AdamW 8-bit, torchao"].isna().all()
    measured = table.drop([name for name in table.index if name.startswith("AdamW 8-bit")])
    assert measured[["step_ms", "ratio", "state_bytes_per_param"]].notna().all(axis=None)


def test_ratios_are_to_fused_adamw(table):
    assert table.loc[step_cost.RELATIVE_TO, ["ratio", "ratio_low", "ratio_high"]].tolist() == [
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("name", STATE_BYTES)
def test_state_bytes_are_the_known_ones(table, name):
    # The step counters of torch and ours take a few more bytes for each of the three parameters.
    count = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    measured = table.loc[name, "state_bytes_per_param"]
    assert STATE_BYTES[name] <= measured <= STATE_BYTES[name] + 3 * 4 / count


def test_the_shapes_are_gpt2s():
    shapes = step_cost.gpt2_shapes().values()
    assert len(shapes) == 75
    # The released model has 124,439,808 parameters, 102,144 of them biases, which ours lacks. Ours
    # has 47 more rows, which pad the vocabulary.
    assert sum(torch.Size(shape).numel() for shape in shapes) == 124_439_808 - 102_144 + 47 * 768


def test_small_steps_reach_bf16_weights_only_with_stochastic_rounding():
    moved = bench.rounding_example(elements=2000, steps=200).set_index("weights").iloc[:, 0]
    assert moved["fp32"] == pytest.approx(1, abs=1e-3)
    assert moved["bf16, rounded to nearest"] < 0.2
    assert moved["bf16, rounded stochastically"] == pytest.approx(1, abs=0.05)


def test_the_tables_are_written_with_their_source(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "gpt2_shapes", lambda: SHAPES)
    monkeypatch.setattr(bench, "SMALL_ROUNDS", 2)
    names = ["SignSGD", "AdamW 8-bit, torchao"]
    main(["bench", "--rounds", "1", "--only", *names, "--out", str(tmp_path)])
    written = pd.read_csv(tmp_path / "step.csv")
    assert list(written.optimizer) == [step_cost.RELATIVE_TO, *names]
    small = pd.read_csv(tmp_path / "small_models.csv").set_index("step")
    # 4 layers of 6 matrices and 2 norms, two embeddings and a norm.
    assert set(small.tensors) == {4 * 8 + 3}
    assert small.loc["gpt2-nano: AdamW, fused", "ratio"] == 1
    assert small.loc["gpt2-nano: AdamW, fused", "parameters"] == (
        (4096 + 256) * 128 + 4 * (12 * 128**2 + 2 * 128) + 128
    )
    text = (tmp_path / "step.md").read_text()
    assert text in capsys.readouterr().out
    assert "AdamW 8-bit, torchao (not available) |" in text
    assert "nan" not in text
    source = json.loads((tmp_path / "provenance.json").read_text())
    assert source["packages"]["torch"].startswith("2.")
    assert source["packages"]["torchao"] is None
    assert "--only SignSGD 'AdamW 8-bit, torchao' --out" in source["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "error: --rounds is 0, but it must be at least 1"),
        (["--only", "Adam"], "error: --only has 'Adam', but it must be one of AdamW, fused; AdamW"),
        (["--out", __file__], "is not a folder, but must be one"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(["bench", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
