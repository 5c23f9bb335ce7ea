"""The rules on time and memory give the known answer for made-up measurements."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims.definitions import Question, load_claims
from analysis.claims.rules import cost
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from experiments.files import FileError
from tests.analysis.conftest import write_studies
from tests.analysis.made_up import results, run

PARTS = {part.rule: part for claim in load_claims("powerstep").values() for part in claim.parts}
SHARE, PEAK, THROUGHPUT = (
    PARTS[rule] for rule in ("step_time_share", "peak_memory_saving", "throughput")
)
AT_MARGIN = 0.01 * 6 * 2048 / 66  # ns per parameter: 1 % of a step of 2048 tokens at 66 GFLOP/s


@pytest.fixture
def studies(results_folder):
    """Return the folder of results with the files of the studies."""
    write_studies(results_folder)
    return results_folder


def change(path, optimizer, **values):
    table = pd.read_csv(path)
    for name, value in values.items():
        table.loc[table["optimizer"] == optimizer, name] = value
    table.to_csv(path, index=False)


def share_of(folder, median, low, high):
    numbers = {"": median, "_low": low, "_high": high}
    columns = {f"extra_ns_per_parameter{suffix}": value for suffix, value in numbers.items()}
    change(folder / "step_cost.csv", cost.POWERSTEP, **columns)
    (found,) = cost.step_time_share(replace(results([]), folder=folder), SHARE)
    return found


def timed(optimizer, speed, seed=0, **columns):
    known = {"experiment": "comparison", "tokens_per_second": speed}
    return run(optimizer, 3.0, seed, **known | columns)


def pairs(ratios, of_adamw=(1000.0, 1100.0, 900.0, 1050.0, 980.0)):
    """Return runs in which a step of PowerStep takes `ratios` as long as one of AdamW."""
    rows = []
    for seed, ratio in enumerate(ratios):
        rows.append(timed("adamw", of_adamw[seed], seed))
        rows.append(timed("powerstep", of_adamw[seed] / ratio, seed))
    return rows


def step_time(folder, rows, asked=THROUGHPUT):
    return [*cost.throughput(replace(results(rows), folder=folder), asked)]


def test_the_share_is_that_of_a_step_worked_out_for_one_model(studies):
    found = share_of(studies, 0.08, 0.06, 0.10)
    parameters, tokens, flops = 32e9, 256 * 2048 / 256, 66e9  # Qwen3 32B on 256 devices
    step = 6 * parameters * tokens / flops
    for value, extra in ((found.value, 0.08), (found.low, 0.06), (found.high, 0.10)):
        assert value == pytest.approx(extra * 1e-9 * parameters / step)
    # 65,536 tokens per device: 0.08 × 66 / (6 × 65,536)
    assert "+0.0013% with 65,536" in found.measured
    assert found.n == 15


@pytest.mark.parametrize(
    ("median", "low", "high", "verdict"),
    [
        (0.9, 0.8, 0.99, SUPPORTED),
        (1.0, 0.9, 1.01, INCONCLUSIVE),
        (1.5, 0.99, 2.0, INCONCLUSIVE),
        (1.1, 1.01, 1.2, NOT_SUPPORTED),
        (-3.0, -4.0, -2.0, SUPPORTED),
    ],
)
def test_the_quartiles_decide_on_the_share(median, low, high, verdict, studies):
    # In units of the margin at the smallest number of tokens per device.
    found = share_of(studies, median * AT_MARGIN, low * AT_MARGIN, high * AT_MARGIN)
    assert found.verdict == verdict
    assert math.isnan(found.p_value)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.9, SUPPORTED), (1.05, INCONCLUSIVE), (1.2, NOT_SUPPORTED)]
)
def test_the_time_of_a_step_is_tested_in_pairs(ratio, verdict, studies):
    ratios = ratio * np.array([1.0, 1.01, 0.985, 1.02, 0.99])
    found, update = step_time(studies, pairs(ratios))
    assert found.verdict == verdict
    logs = np.log(ratios)
    for p, side in ((found.p_supported, "less"), (found.p_refuted, "greater")):
        assert p == pytest.approx(stats.ttest_1samp(logs, np.log(1.05), alternative=side).pvalue)
    interval = stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert found.value == pytest.approx(np.exp(logs.mean()) - 1)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(interval) - 1))
    assert found.n == 5
    assert (update.value, update.low, update.high) == pytest.approx((1.1, 0.99, 1.32))


def test_the_largest_model_is_first(studies):
    rows = pairs([1.0, 1.01, 0.99])
    large = [row | {"model": "large", "parameters": 5e6} for row in pairs([1.2, 1.21, 1.19])]
    first, second, _ = step_time(studies, rows + large)
    assert (first.verdict, second.verdict) == (NOT_SUPPORTED, SUPPORTED)
    assert first.scale.startswith("large")


def test_fewer_pairs_than_asked_for_conclude_nothing(studies):
    found, _ = step_time(studies, pairs([0.5, 0.51]))
    assert (found.verdict, found.n) == (INCONCLUSIVE, 2)
    asked = Question(**THROUGHPUT.model_dump(exclude={"part", "describe"}) | {"least": 2})
    assert step_time(studies, pairs([0.5, 0.51]), asked)[0].verdict == SUPPORTED


def test_diverged_runs_count_and_failed_runs_do_not(studies):
    rows = pairs([1.0, 1.01, 0.99, 1.0])
    rows[1] |= {"status": "diverged", "final_val_loss": math.nan}
    rows[3] |= {"status": "failed", "tokens_per_second": math.nan}
    found, _ = step_time(studies, rows)
    assert found.n == 3
    assert found.value == pytest.approx((1.0 * 0.99 * 1.0) ** (1 / 3) - 1)


def test_only_the_comparison_is_timed_and_its_rates_are_averaged(studies):
    rows = pairs([1.0, 1.01, 0.99])
    rows += [timed("powerstep", 10.0, seed, lr=8e-3, experiment="other") for seed in range(3)]
    rows += [row | {"lr": 2e-3, "run": row["run"] + "b"} for row in pairs([1.21, 1.01, 0.99])]
    found, _ = step_time(studies, rows)
    assert found.n == 3
    logs = np.log([math.sqrt(1.0 * 1.21), 1.01, 0.99])
    assert found.value == pytest.approx(np.exp(logs.mean()) - 1)


def test_the_update_alone_decides_nothing(studies):
    found = step_time(studies, [timed("powerstep", 1.0)])  # nothing to compare it with
    assert [each.verdict for each in found] == [NOT_TESTED, NOT_TESTED]
    assert found[1].value == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("peak", "verdict"), [(2.051e9, NOT_SUPPORTED), (2.05e9, SUPPORTED), (1.9e9, SUPPORTED)]
)
def test_the_saving_at_the_peak_is_compared_with_the_state_saved(peak, verdict, studies):
    # 2.5e9 bytes with AdamW, and 0.5e9 bytes less state: 90 % of it are 0.45e9 bytes.
    change(studies / "peak_memory.csv", "powerstep", peak_bytes=peak)
    found, int8 = cost.peak_memory_saving(replace(results([]), folder=studies), PEAK)
    assert found.verdict == verdict
    assert found.value == pytest.approx((2.5e9 - peak) / 0.5e9)
    assert int8.value == pytest.approx((2.5e9 - 1.7e9) / (1e9 - 1.25e8))
    assert math.isnan(found.p_value)


RULES = [
    (cost.step_time_share, SHARE, "step_cost.csv", cost.POWERSTEP),
    (cost.throughput, THROUGHPUT, "step_cost.csv", cost.POWERSTEP),
    (cost.peak_memory_saving, PEAK, "peak_memory.csv", "powerstep"),
]


@pytest.mark.parametrize(("rule", "asked", "name", "optimizer"), RULES)
def test_what_was_not_measured_is_named(rule, asked, name, optimizer, studies):
    found = replace(results([timed("adamw", 1.0)]), folder=studies)
    column = "ratio" if name == "step_cost.csv" else "peak_bytes"
    change(studies / name, optimizer, **{column: math.nan})
    gaps = [each for each in rule(found, asked) if name in each.measured]
    assert [each.verdict for each in gaps] == [NOT_TESTED]
    assert gaps[0].measured == f"{name} has no measurement of {optimizer}"
    (studies / name).unlink()
    gaps = [each.measured for each in rule(found, asked) if name in each.measured]
    assert set(gaps) == {f"{name} is missing"}


@pytest.mark.parametrize(("rule", "asked", "name", "optimizer"), RULES)
def test_a_damaged_study_is_an_error(rule, asked, name, optimizer, studies):
    (studies / name).write_text("optimizer\nadamw", encoding="utf-8")
    with pytest.raises(FileError, match=f"{name} is damaged"):
        [*rule(replace(results([timed("adamw", 1.0)]), folder=studies), asked)]
