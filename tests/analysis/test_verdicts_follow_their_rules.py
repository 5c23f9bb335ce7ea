"""Each rule gives the known answer for made-up runs, in both directions and at its limits."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims.definitions import Question, load_claims
from analysis.claims.rules import own_rates, pairs, stability
from analysis.claims.verdicts import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
)
from tests.analysis.made_up import RATES, lengths, results, run, sweep

A, B = {"optimizer": "powerstep"}, {"optimizer": "adamw"}
PARTS = {part.part: part for claim in load_claims("powerstep").values() for part in claim.parts}


def question(rule, **fields):
    return Question(**{"rule": rule, "a": A, "b": [B]} | fields)


def finding(rule, asked, rows, losses_of=None):
    (found,) = rule(results(rows, losses_of), asked)
    return found


def both(of_a, of_b=3.0, **columns):
    return [
        *lengths(**columns),
        *sweep("powerstep", of_a, **columns),
        *sweep("adamw", of_b, **columns),
    ]


RATIO = question("token_ratio", margin=0.9)


@pytest.mark.parametrize(
    ("powerstep", "verdict"),
    [(2.0, SUPPORTED), (3.0, SUPPORTED), (3.0126, INCONCLUSIVE), (3.1, NOT_SUPPORTED)],
)
def test_a_token_ratio_is_supported_above_its_margin(powerstep, verdict):
    # -0.12·ln 0.9 = 0.0126 nats are 10 % of the tokens.
    found = finding(own_rates.token_ratio, RATIO, both(powerstep))
    assert found.verdict == verdict
    assert found.value == pytest.approx(math.exp(-(powerstep - 3.0) / 0.12), rel=0.08)
    assert found.low < found.value < found.high
    assert found.p_value == (
        found.p_supported
        if verdict == SUPPORTED
        else pytest.approx(min(found.p_supported, found.p_refuted))
    )


def test_a_ratio_near_one_is_called_parity():
    assert "parity" in finding(own_rates.token_ratio, RATIO, both(3.0)).measured
    assert "parity" not in finding(own_rates.token_ratio, RATIO, both(2.0)).measured


def test_the_token_ratio_is_recomputed_by_hand():
    rows = both(3.02)
    found = finding(own_rates.token_ratio, RATIO, rows)
    frame = pd.DataFrame(rows)

    def lowest(cell):
        cell = cell[cell["lr"] < 1e-2]  # more than one octave above the best
        octaves = np.log2(cell["lr"] / 4e-3)
        slope2, slope1, level = np.polyfit(octaves, cell["final_val_loss"], 2)
        return level - slope1**2 / (4 * slope2)

    base = frame[frame["argument"] == ""]
    gap = lowest(base[base["optimizer"] == "powerstep"]) - lowest(
        base[base["optimizer"] == "adamw"]
    )
    varied = pd.concat(
        [frame[frame["argument"] == "training.steps"], base[base["optimizer"] == "adamw"]]
    )
    losses = {steps: lowest(cell) for steps, cell in varied.groupby("planned_steps")}
    slope = -np.polyfit(np.log(list(losses)), list(losses.values()), 1)[0]
    assert found.value == pytest.approx(math.exp(-gap / slope), rel=1e-6)


def test_an_equal_ratio_is_refuted_on_either_side():
    asked = question("token_ratio", margin=0.9, options={"both_sides": True})
    verdicts = [finding(own_rates.token_ratio, asked, both(a)).verdict for a in (2.9, 3.0, 3.1)]
    assert verdicts == [NOT_SUPPORTED, SUPPORTED, NOT_SUPPORTED]


def test_without_the_slope_over_tokens_there_is_no_ratio():
    rows = [*sweep("powerstep", 2.0), *sweep("adamw", 3.0)]
    found = finding(own_rates.token_ratio, RATIO, rows)
    assert found.verdict == INCONCLUSIVE
    assert "-1.00" in found.measured
    assert "dL/d ln(tokens) unknown" in found.measured


@pytest.mark.parametrize("rule", ["token_ratio", "gap_above", "curvature"])
def test_losses_of_models_that_have_not_learned_decide_nothing(rule):
    asked = question(rule, margin=0.9 if rule == "token_ratio" else 1.5)
    learned, not_learned = (
        finding(getattr(own_rates, rule), asked, both(3.0, unigram_loss=u, bigram_loss=b))
        for u, b in ((6.0, 4.0), (3.4, 2.0))
    )
    assert learned.verdict != NOT_TESTED
    assert not_learned.verdict == NOT_TESTED
    # 3.4 - 0.75·1.4: three quarters of the way.
    assert "> 2.35" in not_learned.measured


def test_losses_without_known_levels_decide_nothing():
    found = finding(own_rates.token_ratio, RATIO, both(3.0, unigram_loss=math.nan))
    assert found.verdict == NOT_TESTED


def test_one_side_that_has_learned_is_enough():
    rows = [*lengths(), *sweep("powerstep", 5.5), *sweep("adamw", 3.0)]
    assert finding(own_rates.token_ratio, RATIO, rows).verdict == NOT_SUPPORTED


def test_two_seeds_and_an_optimum_at_the_edge_decide_nothing():
    two = [*lengths(), *sweep("powerstep", 2.0, seeds=2), *sweep("adamw", 3.0)]
    found = finding(own_rates.token_ratio, RATIO, two)
    assert (found.verdict, found.n) == (INCONCLUSIVE, 2)
    edge = [*lengths(), *sweep("powerstep", 2.0, best=RATES[-1]), *sweep("adamw", 3.0)]
    found = finding(own_rates.token_ratio, RATIO, edge)
    assert found.verdict == INCONCLUSIVE
    assert "not inside the sweep: Powerstep" in found.measured


def test_runs_without_any_variance_decide_nothing():
    rows = [*lengths(), *sweep("powerstep", 2.9, noise=0.0), *sweep("adamw", 3.0, noise=0.0)]
    assert (
        finding(own_rates.gap_above, question("gap_above", margin=0.1), rows).verdict
        == INCONCLUSIVE
    )


def test_an_optimizer_that_never_learns_does_not_mirror_adamw():
    flat = [run("powerstep", 8.318, seed, lr) for lr in RATES for seed in range(3)]
    asked = question("curvature", margin=1.5)
    assert (
        finding(own_rates.curvature, asked, [*flat, *sweep("adamw", 3.0)]).verdict == INCONCLUSIVE
    )
    diverged = [run("powerstep", math.inf, seed, lr) for lr in RATES for seed in range(3)]
    found = finding(own_rates.curvature, asked, [*diverged, *sweep("adamw", 3.0)])
    assert found.verdict == INCONCLUSIVE
    assert "no optimum" in found.measured


@pytest.mark.parametrize(
    ("curvature", "verdict"), [(0.05, SUPPORTED), (0.2, NOT_SUPPORTED), (0.0125, NOT_SUPPORTED)]
)
def test_the_width_of_the_good_rates_is_compared(curvature, verdict):
    rows = [*sweep("powerstep", 3.2, curvature=curvature, best=2e-3), *sweep("adamw", 3.0)]
    found = finding(own_rates.curvature, question("curvature", margin=1.5), rows)
    assert found.verdict == verdict
    assert found.value == pytest.approx(math.sqrt(0.05 / curvature), rel=0.25)


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.3, SUPPORTED), (0.1, INCONCLUSIVE), (0.02, NOT_SUPPORTED)]
)
def test_clearly_slower_is_more_than_a_tenth_of_a_nat(gap, verdict):
    found = finding(own_rates.gap_above, question("gap_above", margin=0.1), both(3.0 + gap))
    assert found.verdict == verdict
    assert found.value == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize(("best", "verdict"), [(1e-3, SUPPORTED), (4e-3, NOT_SUPPORTED)])
def test_best_rates_are_compared_as_a_ratio(best, verdict):
    rates = [2.0**k * 1e-3 for k in range(-2, 5)]
    rows = [
        *sweep("lion", 3.0, best=best, rates=rates),
        *sweep("adamw", 3.0, best=5e-3, rates=rates),
    ]
    asked = question("best_lr_ratio", a={"optimizer": "lion"}, options={"low": 3.0, "high": 10.0})
    found = finding(own_rates.best_lr_ratio, asked, rows)
    assert found.verdict == verdict
    assert found.value == pytest.approx(5e-3 / best, rel=0.1)


def test_the_rate_of_the_other_parameters_is_tuned_too():
    rows = [
        *lengths(),
        *sweep("muon-powerstep", 3.1),
        *sweep("muon-powerstep", 3.0, argument="aux_lr_ratio", value="0.5"),
        *sweep("muon", 3.0),
    ]
    asked = PARTS["Muon with PowerStep needs at most 1/0.9 of the tokens of Muon with AdamW"]
    assert finding(own_rates.token_ratio, asked, rows).verdict == SUPPORTED
    untuned = asked.model_copy(update={"options": {}})
    assert finding(own_rates.token_ratio, untuned, rows).verdict == NOT_SUPPORTED


def common(differences, other=3.0):
    """Return runs of both at one rate, with given differences of final losses by seed."""
    rng = np.random.default_rng(0)
    of_b = other + 0.02 * rng.standard_normal(len(differences))
    return [
        run(name, loss, seed)
        for seed, (b, difference) in enumerate(zip(of_b, differences, strict=True))
        for name, loss in (("powerstep", b + difference), ("adamw", b))
    ]


BOUND = question("attained_bound", margin=0.01, least=12, options={"published": 0.001})


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.0, SUPPORTED), (0.009, INCONCLUSIVE), (0.03, NOT_SUPPORTED)]
)
def test_the_attained_bound_is_the_upper_end_of_the_interval(mean, verdict):
    differences = mean + 0.008 * np.random.default_rng(2).standard_normal(12)
    found = finding(pairs.attained_bound, BOUND, common(differences))
    interval = stats.t.interval(0.9, 11, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.verdict == verdict
    assert f"δ* = {interval[1]:.3f}" in found.measured
    p = stats.ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert found.p_supported == pytest.approx(p)
    assert found.p_refuted == pytest.approx(1 - p)


def test_the_pairs_that_a_bound_needs_are_told():
    differences = 0.0123 * stats.zscore(np.random.default_rng(3).standard_normal(12), ddof=1)
    found = finding(pairs.attained_bound, BOUND, common(differences))
    # n = ((1.645 + 0.842)·SD / margin)²
    assert "the paper's 0.001 needs 936 pairs" in found.measured


def test_a_few_pairs_and_identical_runs_decide_nothing():
    few = finding(pairs.attained_bound, BOUND, common([-0.5, -0.501, -0.499]))
    assert few.verdict == INCONCLUSIVE
    assert math.isnan(few.p_value)
    same = finding(pairs.attained_bound, BOUND, common([0.0] * 12))
    assert same.verdict == INCONCLUSIVE
    assert "identical" in same.measured


@pytest.mark.parametrize("diverged", ["powerstep", "adamw"])
def test_a_divergence_decides_nothing_about_losses(diverged):
    rows = common(-0.5 + 0.01 * np.random.default_rng(0).standard_normal(12))
    rows = [
        run(diverged, math.inf, 3) if (row["optimizer"], row["seed"]) == (diverged, 3) else row
        for row in rows
    ]
    found = finding(pairs.attained_bound, BOUND, rows)
    assert found.verdict == INCONCLUSIVE
    assert "diverged" in found.measured
    assert found.n == 11


def falling(start, end):
    """Return training losses of 100 steps that fall as ln(step)."""
    return [start - (start - end) * math.log(step) / math.log(100) for step in range(1, 101)]


def test_the_early_loss_is_the_mean_over_ln_step_of_a_fifth_of_the_run():
    ends = {"powerstep": 3.0, "stacey": 3.2}
    rows = [run(name, end, seed) for name, end in ends.items() for seed in range(3)]
    asked = question("early_area", b=[{"optimizer": "stacey"}])

    def losses_of(row):
        return falling(
            8.0, ends[row["optimizer"]] + 0.01 * row["seed"] ** (1 + (row["optimizer"] == "stacey"))
        )

    found = finding(pairs.early_area, asked, rows, losses_of)
    # The mean of 8 - k·ln(step) over ln(step) up to step 20 is 8 - k·ln(20)/2.
    by_hand = -0.2 * (math.log(20) / 2) / math.log(100)
    assert found.value == pytest.approx(by_hand, abs=0.01)
    assert found.verdict == SUPPORTED


def test_an_early_loss_counts_although_the_run_diverges_later():
    rows = [
        run(
            name,
            math.inf if (name, seed) == ("powerstep", 2) else 3.0 + 0.1 * (name == "stacey"),
            seed,
        )
        for name in ("powerstep", "stacey")
        for seed in range(3)
    ]
    asked = question("early_area", b=[{"optimizer": "stacey"}])
    found = finding(
        pairs.early_area,
        asked,
        rows,
        lambda row: falling(
            8.0,
            2.0
            + (row["optimizer"] == "stacey")
            + 0.01 * row["seed"] ** 2 * (row["optimizer"] == "stacey"),
        ),
    )
    assert found.n == 3
    assert found.verdict == SUPPORTED


STABLE = PARTS["PowerStep int8 is stable where fp32 state is"]


def stable(unstable=(), of_fp32=(), seeds=4):
    return [
        run(
            name,
            math.inf
            if (lr, seed) in {"powerstep": of_fp32, "powerstep-int8": unstable}[name]
            else 3.0,
            seed,
            lr,
        )
        for name in ("powerstep", "powerstep-int8")
        for lr in RATES[:3]
        for seed in range(seeds)
    ]


def test_stability_needs_many_runs_over_several_rates():
    found = finding(stability.stability, STABLE, stable())
    assert (found.verdict, found.n) == (SUPPORTED, 12)
    # After 0 of 12, the 95 % bound is 1 - 0.05^(1/12).
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 12))
    assert finding(stability.stability, STABLE, stable(seeds=1)).verdict == INCONCLUSIVE


def test_one_divergence_does_not_refute_stability_but_many_do():
    one = finding(stability.stability, STABLE, stable([(1e-3, 0)]))
    assert one.verdict == INCONCLUSIVE
    many = finding(
        stability.stability, STABLE, stable([(lr, seed) for lr in RATES[:2] for seed in range(3)])
    )
    assert many.verdict == NOT_SUPPORTED
    # Six of 12 against none: the hypergeometric probability of all six on one side.
    assert many.p_value == pytest.approx(math.comb(12, 6) / math.comb(24, 6))


def test_rates_at_which_fp32_state_diverges_do_not_count_against_int8():
    lost = [(RATES[2], seed) for seed in range(4)]
    found = finding(stability.stability, STABLE, stable(lost, of_fp32=lost))
    assert found.n == 8
    assert found.value == 0


def test_a_run_that_also_logs_its_effective_steps_counts_once():
    again = [
        row | {"run": row["run"] + "/log", "experiment": "effective_steps"} for row in stable()
    ]
    assert finding(stability.stability, STABLE, stable() + again).n == 12


def test_a_spike_counts_as_unstable():
    rows = [row | {"spikes": int(row["optimizer"] == "powerstep-int8")} for row in stable()]
    assert finding(stability.stability, STABLE, rows).verdict == NOT_SUPPORTED


COLLAPSE = PARTS["naive int8 AdamW collapses"]


@pytest.mark.parametrize(
    ("finals", "rises", "verdict"),
    [
        ([math.inf] * 3, [0.0] * 3, SUPPORTED),
        ([5.0, 5.1, math.inf], [0.0] * 3, SUPPORTED),
        ([3.2, 3.1, 3.2], [0.9, 0.8, 0.9], SUPPORTED),
        ([3.0, 3.1, 3.2], [0.0] * 3, NOT_SUPPORTED),
        ([5.0, 3.1, 3.2], [0.0] * 3, INCONCLUSIVE),
        ([math.inf] * 2, [0.0] * 2, INCONCLUSIVE),
    ],
)
def test_a_collapse_is_a_divergence_or_a_far_higher_loss(finals, rises, verdict):
    rows = [run("adamw-int8", final, seed, rise=rises[seed]) for seed, final in enumerate(finals)]
    rows += [run("adamw", 3.0, seed) for seed in range(len(finals))]
    assert finding(stability.collapse, COLLAPSE, rows).verdict == verdict


def test_a_divergence_is_a_collapse_even_if_no_model_has_learned():
    rows = [run("adamw", 5.9, seed) for seed in range(3)]
    lost = [run("adamw-int8", math.inf, seed) for seed in range(3)]
    above = [run("adamw-int8", 8.0, seed) for seed in range(3)]
    assert finding(stability.collapse, COLLAPSE, rows + lost).verdict == SUPPORTED
    assert finding(stability.collapse, COLLAPSE, rows + above).verdict == NOT_TESTED


LATE = PARTS["β = 0 collapses late"]


@pytest.mark.parametrize(
    ("columns", "verdict"),
    [
        ({"rise": 0.3}, SUPPORTED),
        ({"largest_spike": 0.3}, SUPPORTED),
        ({}, NOT_TESTED),
    ],
)
def test_a_late_collapse_is_a_rise_after_the_warm_up(columns, verdict):
    rows = [
        run("powerstep", 3.0, seed, argument="beta", value="0.0", **columns) for seed in range(3)
    ]
    assert finding(stability.late_collapse, LATE, rows).verdict == verdict


def test_a_divergence_during_the_warm_up_is_not_late():
    rows = [
        run("powerstep", math.inf, seed, argument="beta", value="0.0", steps=steps)
        for seed, steps in enumerate((50, 60, 5))
    ]
    assert finding(stability.late_collapse, LATE, rows).verdict == INCONCLUSIVE
