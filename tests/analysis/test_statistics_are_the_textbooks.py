"""Intervals and tests over seeds are those of Student's t."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.estimates.statistics import estimate, exp, mean_of
from experiments.intervals import t_interval


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
    assert math.isnan(mean_of([3.0]).error)


def test_values_that_are_all_equal_have_no_error_and_so_no_test():
    same = mean_of([0.027, 0.027, 0.027])
    assert math.isnan(same.error)
    assert not same.p_below(0.028) < 0.05


def test_tests_against_a_margin_are_one_sided_t_tests():
    differences = np.array([0.01, 0.02, 0.012])
    mean = mean_of(differences)
    for margin in (0.0, 0.028, -0.028):
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        assert mean.p_below(margin) == pytest.approx(below)
        assert mean.p_above(margin) == pytest.approx(1 - below)


def test_the_interval_is_that_of_the_two_one_sided_tests():
    mean = mean_of([0.01, 0.02, 0.012, 0.009])
    low, high = mean.interval(0.9)
    assert (mean.p_above(low), mean.p_below(high)) == pytest.approx((0.05, 0.05))


def test_a_sum_of_estimates_has_the_degrees_of_freedom_of_welch():
    a, b = np.array([3.1, 3.25, 3.16]), np.array([2.9, 3.4, 3.1, 2.7, 3.3])
    difference = mean_of(a).plus(mean_of(b).scaled(-1))
    welch = stats.ttest_ind(a, b, equal_var=False, alternative="less")
    assert difference.df == pytest.approx(welch.df)
    assert difference.p_below(0) == pytest.approx(welch.pvalue)


def test_an_exponential_beyond_all_floats_is_infinite():
    assert exp(1000.0) == math.inf
    assert exp(-1000.0) == 0
    assert exp(1.0) == math.e
