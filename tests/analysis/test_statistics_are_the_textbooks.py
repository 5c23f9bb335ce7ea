"""Intervals and paired tests over seeds are those of Student's t."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics import MARGIN, compare, estimate
from experiments.intervals import t_interval

A = pd.Series({0: 3.10, 1: 3.25, 2: 3.16})
B = pd.Series({2: 3.15, 0: 3.09, 1: 3.23})


def test_the_interval_is_students():
    # 4.302653 is the 97.5 % point of Student's t with two degrees of freedom.
    over_seeds = estimate(pd.Series([3.0, 3.2, 3.1]))
    assert over_seeds.mean == pytest.approx(3.1)
    assert over_seeds.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert str(over_seeds) == "3.100 ± 0.248"
    assert f"{over_seeds:+}" == "+3.100 ± 0.248"


def test_the_interval_is_taken_along_the_axis_of_the_seeds():
    values = np.array([[3.0, 3.2, 3.1], [1.0, 3.0, 2.0]])
    for by_seed, axis in ((values, -1), (values, 1), (values.T, 0)):
        mean, half_width = t_interval(by_seed, axis)
        np.testing.assert_allclose(mean, [3.1, 2.0])
        np.testing.assert_allclose(half_width, [4.302653 * 0.1 / 3**0.5, 4.302653 / 3**0.5], 1e-6)
    mean, half_width = t_interval(values[:, :1])
    np.testing.assert_array_equal(mean, [3.0, 1.0])
    assert np.isnan(half_width).all()


def test_one_seed_has_no_interval():
    assert str(estimate(pd.Series([3.0]))) == "3.000"
    comparison = compare(A[:1], B)
    assert comparison.difference.n == 1
    assert math.isnan(comparison.p_equivalent)


def test_differences_are_taken_seed_by_seed():
    difference = compare(A, B).difference
    assert difference.mean == pytest.approx((0.01 + 0.02 + 0.01) / 3)
    # The standard deviation of 0.01, 0.02 and 0.01, by hand.
    assert difference.half_width == pytest.approx(4.302653 * 0.0057735 / 3**0.5, rel=1e-5)


def test_seeds_that_only_one_of_them_has_do_not_count():
    assert compare(A, B.drop(1)).difference.n == 2
    assert compare(A, pd.Series({7: 1.0})) is None


def test_the_tests_are_paired_t_tests_against_the_margin():
    b = B.sort_index()
    comparison = compare(A, B)
    assert comparison.p_lower == pytest.approx(stats.ttest_rel(A, b, alternative="less").pvalue)
    above = stats.ttest_rel(A, b + MARGIN, alternative="less").pvalue
    below = stats.ttest_rel(A, b - MARGIN, alternative="greater").pvalue
    assert comparison.p_not_above == pytest.approx(above)
    assert comparison.p_not_below == pytest.approx(below)
    assert comparison.p_equivalent == pytest.approx(max(above, below))


def test_the_t_statistic_is_its_formula():
    mean, spread = 0.04 / 3, 0.0057735
    t = (mean - MARGIN) / (spread / 3**0.5)
    assert compare(A, B).p_not_above == pytest.approx(stats.t.cdf(t, 2), rel=1e-4)
