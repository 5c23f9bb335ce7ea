"""The trend in the paper's tables is that of ordinary least squares."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.papers.trend import paper_gaps, paper_trend

SIZES = np.array([0.124, 0.35, 0.6, 1.7, 4, 8]) * 1e9
GAPS = np.array([2.949, 2.717, 2.923, 2.799, 2.712, 2.688]) - [2.95, 2.711, 2.912, 2.78, 2.69, 2.66]


def test_the_slope_is_that_of_the_six_published_gaps():
    trend = paper_trend()
    x = np.log10(SIZES)
    (slope, intercept), covariance = np.polyfit(x, GAPS, 1, cov=True)
    assert trend.slope == pytest.approx(slope)
    assert trend.half_width == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(covariance[0, 0]))
    assert round(trend.slope, 4) == 0.0158
    assert round(trend.half_width, 4) == 0.0021
    assert trend.r_squared == pytest.approx(np.corrcoef(x, GAPS)[0, 1] ** 2)
    assert trend.p_value == pytest.approx(3e-5, rel=0.02)
    line, _ = trend.at(np.array([32e9]))
    assert line[0] == pytest.approx(intercept + slope * math.log10(32e9))


def test_all_six_are_in_the_order_of_their_sizes():
    assert paper_trend().spearman == pytest.approx(1)
    # One order in 720 of six gaps rises throughout.
    assert sum(list(order) == sorted(order) for order in permutations(range(6))) == 1


def test_the_line_is_extrapolated_with_its_interval():
    line, half_width = paper_trend().at(np.array([32e9, 235e9]))
    assert line == pytest.approx([0.038, 0.051], abs=1e-3)
    assert half_width == pytest.approx([0.003, 0.005], abs=2e-3)


def test_one_family_has_a_trend_of_its_own():
    trend = paper_trend(family="qwen3")
    expected = stats.linregress(np.log10(SIZES[2:]), GAPS[2:])
    assert (trend.slope, trend.p_value) == pytest.approx((expected.slope, expected.pvalue))
    assert round(trend.p_value, 3) == 0.010


def test_token_factors_solve_chinchillas_law():
    gaps = paper_gaps().set_index("model")
    assert gaps["token_factor"].iloc[:6].round(2).tolist() == [1.01, 0.96, 0.94, 0.90, 0.89, 0.86]
    row = gaps.loc["qwen3-8b"]
    solved = optimize.brentq(
        lambda d: 410.7 / d**0.28 - 410.7 / row["tokens"] ** 0.28 - row["gap"], 1e9, 1e11
    )
    assert row["token_factor"] == pytest.approx(solved / row["tokens"])


def test_the_large_models_are_those_of_table_6_with_int8_state():
    gaps = paper_gaps()
    large = gaps[gaps["state"] == "int8"].set_index("model")["gap"]
    assert large.to_dict() == {
        "deepseek-v2-lite": -0.005,
        "qwen3-30b-a3b": 0.004,
        "qwen3-32b": 0.01,
        "qwen3-235b-a22b": -0.001,
    }
