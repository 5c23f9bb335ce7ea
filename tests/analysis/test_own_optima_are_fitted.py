"""The loss at an optimizer's own best rate is the minimum of a quadratic, with its error."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import interpolate, optimize, stats

from analysis.estimates.losses import best_lr
from analysis.estimates.optimum import fit_optima
from analysis.estimates.statistics import Measured, ratio_interval
from analysis.estimates.tokens import TokenRatio, token_slope
from tests.analysis.made_up import RATES, lengths, run, sweep


def frame(rows):
    return pd.DataFrame(rows)


def test_the_minimum_and_its_error_are_those_of_a_nonlinear_fit():
    runs = frame(sweep("adamw", 3.0, seeds=1, rates=RATES[:4], noise=0.01))
    fit = fit_optima({"a": runs}).cells["a"]
    (lowest, at, curvature), covariance = optimize.curve_fit(
        lambda x, lowest, at, c: lowest + c * (x - at) ** 2,
        np.log2(runs["lr"]),
        runs["final_val_loss"],
        p0=(3.0, np.log2(4e-3), 0.05),
    )
    errors = np.sqrt(np.diag(covariance))
    for found, value, error in zip(
        (fit.loss, fit.log2_lr, fit.curvature), (lowest, at, curvature), errors, strict=True
    ):
        assert found.value == pytest.approx(value, rel=1e-5)
        assert found.error == pytest.approx(error, rel=1e-3)
        assert found.df == 1


def test_fewer_rates_count_above_the_best_one_than_below_it():
    octaves = range(-4, 4)
    runs = frame(sweep("adamw", 3.0, seeds=1, rates=[4e-3 * 2.0**k for k in octaves]))
    assert fit_optima({"a": runs}).cells["a"].rates == (1e-3, 2e-3, 4e-3, 8e-3)
    coarse = frame(sweep("adamw", 3.0, rates=[4e-4, 4e-3, 4e-2]))
    assert fit_optima({"a": coarse}) is None


def test_the_effect_of_a_seed_does_not_count_as_noise():
    quiet, loud = frame(sweep("adamw", 3.0)), frame(sweep("adamw", 3.0))
    loud["final_val_loss"] += loud["seed"]
    fits = [fit_optima({"a": runs}).cells["a"] for runs in (quiet, loud)]
    assert fits[1].loss.error == pytest.approx(fits[0].loss.error)
    assert fits[1].loss.value == pytest.approx(fits[0].loss.value + 1.0)


def test_the_fit_is_not_biased_where_the_lowest_mean_is():
    lowest_means, fitted = [], []
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = [
            run("adamw", 3.0 + 0.002 * np.log2(lr / 4e-3) ** 2 + 0.03 * noise, seed, lr)
            for lr in RATES
            for seed, noise in enumerate(rng.standard_normal(3))
        ]
        if fit := fit_optima({"a": frame(rows)}):
            fitted.append(fit.cells["a"].loss.value)
        lowest_means.append(frame(rows).groupby("lr")["final_val_loss"].mean().min())
    assert np.mean(lowest_means) < 2.99
    assert abs(np.median(fitted) - 3.0) < abs(np.mean(lowest_means) - 3.0)


def test_a_curve_that_is_steep_and_noisy_at_high_rates_is_not_biased():
    # Like AdamW's and PowerStep's curves at 142 thousand parameters in the study.
    rates = np.array([2e-3, 4e-3, 8e-3, 1.6e-2])
    curve = interpolate.CubicSpline(np.log2(rates), [3.06, 3.0, 3.1, 3.35])
    truth = curve(np.linspace(*np.log2(rates[[0, -1]]), 2000)).min()
    rng = np.random.default_rng(0)
    covered, errors = 0, []
    for _ in range(300):
        rows = [
            run("powerstep", curve(np.log2(lr)) + scatter * noise, seed, lr)
            for lr, scatter in zip(rates, (0.04, 0.04, 0.1, 0.16), strict=True)
            for seed, noise in enumerate(rng.standard_normal(6))
        ]
        lowest = fit_optima({"a": frame(rows)}).cells["a"].loss
        errors.append(lowest.value - truth)
        low, high = lowest.interval(0.95)
        covered += low <= truth <= high
    assert abs(np.mean(errors)) < 0.01
    assert covered / 300 > 0.92


def test_rates_at_which_a_run_diverged_or_is_missing_are_left_out():
    rows = sweep("adamw", 3.0)
    rows += [run("adamw", math.inf, 0, 3.2e-2), run("adamw", 2.0, 1, 3.2e-2)]
    assert fit_optima({"a": frame(rows)}).cells["a"].loss.value == pytest.approx(3.0, abs=0.01)


def test_fewer_than_three_rates_have_no_optimum():
    assert fit_optima({"a": frame(sweep("adamw", 3.0, rates=RATES[:2]))}) is None


def test_an_optimum_that_ties_with_the_edge_is_not_inside():
    rng = np.random.default_rng(0)
    noisy = [
        run("powerstep", loss + 0.02 * rng.standard_normal(), seed, lr)
        for lr, loss in ((1e-3, 3.0), (2e-3, 3.02), (4e-3, 3.07), (8e-3, 3.15))
        for seed in range(3)
    ]
    assert not fit_optima({"a": frame(noisy)}).cells["a"].is_inside
    assert best_lr(frame(noisy))["edge"].item()
    clear = frame(sweep("powerstep", 3.0))
    assert fit_optima({"a": clear}).cells["a"].is_inside
    assert not best_lr(clear)["edge"].item()


def test_the_best_rate_is_chosen_apart_for_each_value_of_an_argument():
    rows = [
        row
        for beta, best in (("0.0", 2e-3), ("0.1", 8e-3))
        for row in sweep("powerstep", 3.0, best=best, noise=0.0, argument="beta", value=beta)
    ]
    best = best_lr(frame(rows)).set_index("value")
    assert best["lr"].to_dict() == {"0.0": 2e-3, "0.1": 8e-3}
    assert set(best["tried"]) == {5}


def test_the_slope_over_tokens_is_that_of_the_lowest_losses():
    slope = token_slope(frame(lengths(slope=0.12)))
    assert slope.value == pytest.approx(0.12, abs=3 * slope.error)
    assert 0 < slope.error < 0.005
    assert token_slope(frame(sweep("adamw", 3.0))) is None


def test_the_ratio_of_tokens_undoes_the_gap():
    ratio = TokenRatio(Measured(0.03, 0.004, 20), Measured(0.12, 0.002, 20))
    # By definition, AdamW with ρ times the tokens ends 0.03 above: -s·ln ρ = 0.03.
    assert -0.12 * math.log(ratio.value) == pytest.approx(0.03)
    low, high = ratio.interval(0.9)
    assert low < ratio.value < high
    # The interval and the one-sided tests agree.
    for bound in (low, high):
        assert min(ratio.p_above(bound), ratio.p_below(bound)) == pytest.approx(0.05, abs=5e-3)


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        a = Measured(1.0 + 0.3 * rng.standard_normal(), 0.3, 1e6)
        b = Measured(2.0 + 0.4 * rng.standard_normal(), 0.4, 1e6)
        low, high = ratio_interval(a, b, 0.9)
        covered += low <= 0.5 <= high
    # Two standard errors of a share of 0.9 in 2000 draws.
    assert covered / 2000 == pytest.approx(0.9, abs=2 * math.sqrt(0.09 / 2000))
    assert all(map(math.isnan, ratio_interval(Measured(1, 0.1, 9), Measured(0.1, 0.2, 9), 0.9)))


def test_an_interval_is_students():
    low, high = Measured(1.0, 0.5, 4).interval(0.9)
    half = stats.t.ppf(0.95, 4) * 0.5
    assert (low, high) == pytest.approx((1 - half, 1 + half))
    assert Measured(1.0, 0.5, 4).p_below(high) == pytest.approx(0.05)
    assert Measured(1.0, 0.5, 4).p_above(low) == pytest.approx(0.05)
