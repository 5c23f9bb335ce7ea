"""Verdicts follow from the raw metrics by the stated rules."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import special

from analysis.claims.claims import find
from analysis.claims.verdicts import (
    ABOVE,
    EQUIVALENT,
    INCONCLUSIVE,
    LOWER,
    NOT_ABOVE,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    VERDICTS,
    Finding,
    judge,
    overall,
)
from analysis.claims.write import claims_frame, write_claims
from analysis.frames import Results, read_plan, read_results
from analysis.paper import load_paper
from tests.analysis.conftest import planned, write_plan, write_run, write_studies


@pytest.fixture
def results(results_folder):
    """Return a function that writes rows of a plan with their final losses, and reads them."""
    write_studies(results_folder)

    def make(finals: list[tuple[dict, float]]) -> Results:
        for row, final in finals:
            if final is not None:
                at = 37 if math.isinf(final) else None
                write_run(results_folder, row, 3.0 if at else final, at)
        plan = read_plan(write_plan(results_folder, [row for row, _ in finals]))
        return read_results(plan, results_folder)

    return make


def comparison(adamw, powerstep):
    """Return a comparison of AdamW and PowerStep by their final losses."""
    return [
        (planned(optimizer, seed), final)
        for optimizer, finals in (("adamw", adamw), ("powerstep", powerstep))
        for seed, final in enumerate(finals)
    ]


def finding_of(results, claim, part, protocol=""):
    return next(
        finding
        for finding in find(results)
        if finding.claim == claim and part in finding.part and protocol in finding.protocol
    )


def last_val_losses(results_folder, rows):
    """Read final losses from the runs' metrics without any function of the analysis."""
    frames = [
        pd.read_parquet(results_folder / "runs" / row["run"] / "metrics.parquet") for row in rows
    ]
    return np.array([frame["val_loss"].dropna().iloc[-1] for frame in frames])


def student(t, degrees):
    """Return the distribution function of Student's t, from the incomplete beta function."""
    tail = special.betainc(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return tail if t < 0 else 1 - tail


@pytest.mark.parametrize(
    ("powerstep", "verdict"),
    [
        ([3.000, 3.205, 3.098], SUPPORTED),
        ([3.100, 3.305, 3.198], NOT_SUPPORTED),
        ([3.000, 3.250, 3.050], INCONCLUSIVE),
    ],
)
def test_claim_1_recomputed_by_hand_from_raw_metrics(results, results_folder, powerstep, verdict):
    rows = comparison([3.0, 3.2, 3.1], powerstep)
    found = finding_of(results(rows), 1, "final loss", "shared lr")
    of = {
        name: last_val_losses(results_folder, [row for row, _ in rows if row["optimizer"] == name])
        for name in ("adamw", "powerstep")
    }
    difference = of["powerstep"] - of["adamw"]
    t = (difference.mean() - 0.028) / (difference.std(ddof=1) / math.sqrt(3))
    p_value = student(t, 2)
    assert found.value == pytest.approx(difference.mean())
    assert found.p_value == pytest.approx(p_value)
    by_hand = INCONCLUSIVE
    if p_value < 0.05:
        by_hand = SUPPORTED
    elif 1 - p_value < 0.05:
        by_hand = NOT_SUPPORTED
    assert found.verdict == by_hand == verdict
    assert found.n == 3


@pytest.mark.parametrize(
    ("finals", "verdict"),
    [
        ([3.001, 3.202, 3.099], SUPPORTED),
        ([2.900, 3.101, 3.002], NOT_SUPPORTED),
        ([3.020, 3.190, 3.130], INCONCLUSIVE),
    ],
)
def test_claim_5_recomputed_by_hand_from_raw_metrics(results, results_folder, finals, verdict):
    rows = [
        (
            planned("powerstep", seed, experiment="sensitivity", argument="gamma", value=value),
            final,
        )
        for value, losses in (("0.9", [3.0, 3.2, 3.1]), ("0.95", finals))
        for seed, final in enumerate(losses)
    ]
    found = finding_of(results(rows), 5, "γ = 0.95")
    of = {
        value: last_val_losses(results_folder, [row for row, _ in rows if row["value"] == value])
        for value in ("0.9", "0.95")
    }
    difference = of["0.95"] - of["0.9"]
    error = difference.std(ddof=1) / math.sqrt(3)
    not_above = student((difference.mean() - 0.028) / error, 2)
    not_below = 1 - student((difference.mean() + 0.028) / error, 2)
    by_hand = INCONCLUSIVE
    if max(not_above, not_below) < 0.05:
        by_hand = SUPPORTED
    elif min(1 - not_above, 1 - not_below) < 0.05:
        by_hand = NOT_SUPPORTED
    assert found.p_value == pytest.approx(max(not_above, not_below))
    assert found.verdict == by_hand == verdict


def test_each_optimizer_is_judged_at_its_own_best_rate(results):
    rows = [
        (planned(optimizer, seed, experiment="learning_rate", lr=lr), final + 0.001 * seed**2)
        for optimizer, finals in {
            "adamw": {3e-4: 3.5, 1e-3: 3.0, 3e-3: 2.5, 1e-2: 2.8},
            "powerstep": {3e-4: 3.4, 1e-3: 2.9, 3e-3: 3.1, 1e-2: 3.3},
        }.items()
        for lr, final in finals.items()
        for seed in range(3)
    ]
    found = finding_of(results(rows), 1, "final loss", "own best")
    assert found.value == pytest.approx(2.9 - 2.5)
    assert found.verdict == NOT_SUPPORTED
    assert found.protocol == "own best lr: PowerStep 0.001, AdamW 0.003"


@pytest.mark.parametrize(
    ("rule", "a_diverged", "b_diverged"),
    [
        (NOT_ABOVE, NOT_SUPPORTED, SUPPORTED),
        (ABOVE, SUPPORTED, NOT_SUPPORTED),
        (EQUIVALENT, NOT_SUPPORTED, NOT_SUPPORTED),
        (LOWER, NOT_SUPPORTED, SUPPORTED),
    ],
)
def test_a_divergence_counts_as_an_infinite_loss(rule, a_diverged, b_diverged):
    finding = Finding(1, "a part")
    ended, diverged = pd.Series([3.0, 3.1, 3.2]), pd.Series([3.0, math.inf, 3.2])
    assert judge(finding, rule, diverged, ended).verdict == a_diverged
    assert judge(finding, rule, ended, diverged).verdict == b_diverged
    assert judge(finding, rule, diverged, diverged).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("best", "verdict"),
    [
        ({"adamw": 3e-3, "powerstep": 3e-3}, NOT_SUPPORTED),
        (
            {"adamw": 1e-2, "powerstep": 3e-3},
            NOT_SUPPORTED,
        ),  # a better rate of AdamW would only increase the gap
        (
            {"adamw": 3e-3, "powerstep": 1e-2},
            INCONCLUSIVE,
        ),  # a better rate of PowerStep could close the gap
    ],
)
def test_what_lies_beyond_the_edge_of_a_sweep_stays_open(results, best, verdict):
    made = results(
        [
            (
                planned(optimizer, seed, experiment="learning_rate", lr=lr),
                level + seed / 100 + (lr != best[optimizer]),
            )
            for optimizer, level in (("adamw", 3.0), ("powerstep", 3.2))
            for lr in (1e-3, 3e-3, 1e-2)
            for seed in range(3)
        ]
    )
    finding = finding_of(made, 1, "final loss is not above", "own best lr")
    assert finding.value == pytest.approx(0.2)
    assert finding.verdict == verdict


def test_the_large_models_are_compared_with_int8_state(results):
    made = results(
        [
            (planned(optimizer, seed, experiment="large_scale", model="qwen3-nano"), final + noise)
            for optimizer, final in (("adamw", 3.0), ("powerstep-int8", 3.1))
            for seed, noise in enumerate((0.0, 0.01, -0.01))
        ]
    )
    finding = finding_of(made, 1, "with int8 state")
    assert finding.value == pytest.approx(0.1)
    assert finding.verdict == NOT_SUPPORTED
    assert finding.scale.startswith("qwen3-nano")


def test_missing_seeds_are_said_and_not_averaged_over(results):
    found = finding_of(results(comparison([3.0, 3.2, 3.1], [3.0, 3.2, None])), 1, "final", "shared")
    assert "1 missing" in found.measured
    assert found.n == 2


def test_one_seed_decides_nothing(results):
    found = finding_of(results(comparison([3.0], [2.0])), 1, "final", "shared")
    assert found.verdict == INCONCLUSIVE
    assert "no test with one seed" in found.measured


def test_a_profile_without_runs_of_a_claim_leaves_it_untested(results):
    verdicts = {}
    for finding in find(results(comparison([3.0], [3.0]))):
        verdicts.setdefault(finding.claim, []).append(finding)
    for claim in (4, 5, 6, 7, 8, 11):
        assert overall(verdicts[claim]) == NOT_TESTED


@pytest.mark.parametrize(
    ("finals", "verdict"),
    [
        ([math.inf, 5.0], SUPPORTED),
        ([5.0, 3.1], INCONCLUSIVE),
        ([3.0, 3.1], NOT_SUPPORTED),
        ([5.0, None], INCONCLUSIVE),
    ],
)
def test_a_collapse_is_a_divergence_or_a_loss_far_above_adamws(results, finals, verdict):
    rows = [
        (planned(optimizer, seed, experiment="quantization"), final)
        for optimizer, losses in (("adamw", [3.0, 3.0]), ("adamw-int8", finals))
        for seed, final in enumerate(losses)
    ]
    assert finding_of(results(rows), 3, "collapses").verdict == verdict


def test_a_divergence_anywhere_refutes_stability(results):
    rows = [(planned("powerstep-int8", seed), final) for seed, final in enumerate([3.0, math.inf])]
    assert finding_of(results(rows), 3, "stays stable").verdict == NOT_SUPPORTED
    assert finding_of(results(rows[:1]), 3, "stays stable").verdict == SUPPORTED


def test_early_is_the_first_validation_after_a_fifth_of_the_steps(results, results_folder):
    rows = [
        (planned(optimizer, seed, experiment="stacey"), final + 0.001 * seed**2)
        for optimizer, final in (("powerstep", 3.0), ("stacey", 3.1))
        for seed in range(3)
    ]
    found = finding_of(results(rows), 8, "below that of Stacey after 20%")
    assert found.value == pytest.approx(-0.1)
    assert found.verdict == SUPPORTED


def test_a_whole_claim_is_as_strong_as_its_weakest_part():
    def of(*verdicts):
        return overall(Finding(1, "part", verdict=verdict) for verdict in verdicts)

    assert of(SUPPORTED, SUPPORTED, NOT_TESTED) == SUPPORTED
    assert of(SUPPORTED, INCONCLUSIVE) == INCONCLUSIVE
    assert of(SUPPORTED, INCONCLUSIVE, NOT_SUPPORTED) == NOT_SUPPORTED
    assert of(NOT_TESTED) == of() == NOT_TESTED


def test_every_claim_has_a_verdict_of_the_closed_set_in_both_files(results, results_folder):
    found = results(comparison([3.0, 3.2], [3.0, 3.2]))
    write_claims(found, results_folder)
    table = pd.read_csv(results_folder / "claims.csv")
    claims = load_paper()["claims"]
    assert sorted(table["claim"].unique()) == sorted(claims) == list(range(1, 12))
    assert set(table["verdict"]) <= set(VERDICTS)
    assert table["rule"].notna().all()
    text = (results_folder / "claims.md").read_text()
    for number, claim in claims.items():
        assert f"| {number}. {claim['statement']} | **" in text
    assert "nan" not in text.lower().split()
    assert len(claims_frame(find(found))) == len(table)


def test_sensitivity_counts_the_learning_rates_that_both_were_given(results):
    finals = {
        "adamw": {1e-4: 9.0, 1e-3: 3.0, 3e-3: 3.5},
        "powerstep": {1e-3: 3.0, 3e-3: 3.3, 3e-2: 8.0},
    }
    rows = [
        (planned(optimizer, seed, experiment="learning_rate", lr=lr), final)
        for optimizer, of_rates in finals.items()
        for lr, final in of_rates.items()
        for seed in (0, 1)
    ]
    found = finding_of(results(rows), 6, "over the sweep")
    assert found.value == pytest.approx(0.3 / 2 - 0.5 / 2)
    alone = [(row, final) for row, final in rows if row["lr"] != 3e-3]
    assert finding_of(results(alone), 6, "over the sweep").verdict == NOT_TESTED
