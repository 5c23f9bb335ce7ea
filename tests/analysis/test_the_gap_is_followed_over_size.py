"""Gaps of a made-up ladder and their trend are those that it was made with."""

import math

import numpy as np
import pytest

from analysis.catalogue import figures, tables
from analysis.claims.definitions import Question
from analysis.claims.rules.size import gap_trend
from analysis.claims.verdicts import NOT_TESTED
from analysis.estimates.ladder import ladder
from analysis.estimates.statistics import Measured
from analysis.estimates.trend import LACK_OF_FIT, constant, fit_trend, power_law
from analysis.figures.ladder import ladder_figure
from analysis.tables.ladder import ladder_table, trend_table
from tests.analysis.conftest import planned
from tests.analysis.made_up import lengths, results, sweep

SIZES = {"a": 4e4, "b": 1e5, "c": 3e5, "d": 1e6}
LEVEL, SLOPE = 0.05, 0.03  # gap at 100k parameters, and per decade


def true_gap(parameters):
    return LEVEL + SLOPE * math.log10(parameters / 1e5)


def made_up(noise=0.004, seeds=3):
    """Return the runs of a ladder; at the largest size each rate has a single run."""
    rows = []
    for rung, (model, parameters) in enumerate(SIZES.items(), start=1):
        is_last = rung == len(SIZES)
        own = {"model": model, "parameters": parameters, "rung": rung, "noise": noise}
        own |= {"tokens": 20 * parameters, "bytes_per_token": 2.0}
        own |= {"rates": (2e-3, 4e-3, 8e-3), "seeds": 1} if is_last else {"seeds": seeds}
        lowest = 4 - 0.3 * rung
        rows += sweep("adamw", lowest, **own)
        rows += sweep("powerstep", lowest + true_gap(parameters), best=3e-3, **own)
    return rows


def test_each_gap_is_that_of_its_size():
    rungs = ladder(results(made_up()).runs, "powerstep")
    assert [rung.model for rung in rungs] == [*SIZES]
    for rung in rungs:
        assert rung.gap.value == pytest.approx(true_gap(rung.parameters), abs=4 * rung.gap.error)
        assert 0.001 < rung.gap.error < 0.01
        assert 2 ** rung.log2_lrs["powerstep"].value == pytest.approx(3e-3, rel=0.1)
    # 4 rates × 3 seeds × 2 runs, 6 coefficients, 2 effects of seeds. The largest size has as many
    # coefficients as runs, and so takes the variance of all sizes.
    assert [rung.gap.df for rung in rungs] == [16, 16, 16, 48]


def test_a_size_without_an_optimum_is_left_out():
    rows = [row for row in made_up() if row["model"] != "b" or row["lr"] < 3e-3]
    assert [rung.model for rung in ladder(results(rows).runs, "powerstep")] == ["a", "c", "d"]
    assert ladder(results(made_up()).runs, "powerstep-int8") == []


def test_models_outside_of_the_ladder_do_not_count():
    rows = [row | {"rung": 0} if row["model"] == "a" else row for row in made_up()]
    assert [rung.model for rung in ladder(results(rows).runs, "powerstep")] == ["b", "c", "d"]


def test_a_gap_becomes_a_ratio_of_tokens_by_the_slope_between_measured_sizes():
    rows = made_up(noise=1e-4)
    for model, slope in (("a", 0.1), ("c", 0.2)):
        own = {"model": model, "parameters": SIZES[model], "rung": 0}
        rows += lengths(slope, **own)
    ratios = {rung.model: rung.ratio.value for rung in ladder(results(rows).runs, "powerstep")}
    between = np.interp(5.0, np.log10([SIZES["a"], SIZES["c"]]), [0.1, 0.2])
    expected = {"a": 0.1, "b": between, "c": 0.2, "d": 0.2}
    for model, slope in expected.items():
        assert ratios[model] == pytest.approx(math.exp(-true_gap(SIZES[model]) / slope), rel=0.02)


def gaps_of(values, errors, df=60):
    return [Measured(value, error, df) for value, error in zip(values, errors, strict=True)]


def test_the_line_is_that_of_weighted_least_squares():
    x = np.array([4.6, 4.9, 5.2, 5.6, 5.9, 6.1])
    errors = np.array([0.004, 0.003, 0.005, 0.004, 0.006, 0.008])
    values = 0.02 * x + errors * np.array([0.1, -0.2, 0.15, 0.05, -0.1, 0.0])
    trend = fit_trend(10**x, gaps_of(values, errors))
    (slope, intercept), covariance = np.polyfit(x, values, 1, w=1 / errors, cov="unscaled")
    assert trend.scatter == 0
    assert trend.slope.value == pytest.approx(slope)
    assert trend.slope.error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert trend.slope.df > 60  # each gap has an error of its own
    at = np.array([9.0, 1.0])
    assert trend.at(1e9).value == pytest.approx(9 * slope + intercept)
    assert trend.at(1e9).error == pytest.approx(math.sqrt(at @ covariance @ at))
    mean = constant(gaps_of(values, errors))
    assert mean.value == pytest.approx(np.average(values, weights=errors**-2))


def test_sizes_that_scatter_widen_the_interval():
    sizes = [4e4, 1e5, 3e5, 1e6, 3e6]
    scattered = [0.01, 0.05, 0.0, 0.06, 0.03]
    smooth = fit_trend(sizes, gaps_of([0.01, 0.02, 0.03, 0.04, 0.05], [0.002] * 5))
    rough = fit_trend(sizes, gaps_of(scattered, [0.002] * 5))
    assert smooth.lack_of_fit > LACK_OF_FIT > rough.lack_of_fit
    assert smooth.slope.df > 60
    assert rough.slope.df == 3
    assert rough.slope.error > 3 * smooth.slope.error
    # The restricted likelihood of equal errors is known: τ² is the residual variance less SE².
    line = np.polynomial.Polynomial.fit(np.log10(sizes), scattered, 1)
    residuals = scattered - line(np.log10(sizes))
    assert rough.scatter**2 == pytest.approx(residuals @ residuals / 3 - 0.002**2, rel=1e-3)


@pytest.mark.parametrize("scatter", [0.0, 0.01])
def test_intervals_cover_the_truth_as_often_as_they_say(scatter):
    rng = np.random.default_rng(0)
    sizes = np.array([42e3, 74e3, 166e3, 395e3, 775e3, 1.35e6])
    errors, df, rounds = 0.004 * np.array([1, 1, 1, 0.9, 1.2, 1.5]), 60, 600
    truth = [true_gap(size) for size in sizes]
    covered = {"slope": 0, "124M": 0}
    for _ in range(rounds):
        values = truth + scatter * rng.standard_normal(6) + errors * rng.standard_normal(6)
        estimated = errors * math.sqrt(rng.chisquare(df) / df)
        trend = fit_trend(sizes, gaps_of(values, estimated, df))
        for name, found, true in (
            ("slope", trend.slope, SLOPE),
            ("124M", trend.at(1.24e8), true_gap(1.24e8)),
        ):
            low, high = found.interval(0.95)
            covered[name] += low <= true <= high
    for name in covered:
        assert 0.92 <= covered[name] / rounds <= 0.99, name


def test_no_trend_is_fitted_to_two_sizes_or_to_gaps_without_errors():
    assert fit_trend([1e5, 1e6], gaps_of([0.1, 0.2], [0.01, 0.01])) is None
    assert fit_trend([1e5, 1e6, 1e7], gaps_of([0.1, 0.2, 0.3], [math.nan] * 3)) is None


def test_a_power_law_is_recovered_and_needs_one_sign():
    sizes = np.array([1e4, 1e5, 1e6])
    factor, exponent = power_law(sizes, gaps_of(0.01 * sizes**0.2, [0.001] * 3))
    assert (factor, exponent) == (pytest.approx(0.01), pytest.approx(0.2))
    factor, _ = power_law(sizes, gaps_of(-0.01 * sizes**0.2, [0.001] * 3))
    assert factor == pytest.approx(-0.01)
    assert power_law(sizes, gaps_of([-0.01, 0.01, 0.02], [0.001] * 3)) is None


def test_the_figure_keeps_measured_fitted_extrapolated_and_published_apart():
    _, data = ladder_figure(results(made_up()))
    gaps = data[data["what"].str.startswith("gap")]
    assert gaps["what"].unique().tolist() == [
        "gap, published",
        "gap, measured",
        "gap, fitted",
        "gap, extrapolated",
    ]
    largest = {what: rows["parameters"].max() for what, rows in gaps.groupby("what")}
    assert largest["gap, measured"] == largest["gap, fitted"] == 1e6
    assert largest["gap, extrapolated"] == pytest.approx(8e9)
    published = gaps[gaps["what"] == "gap, published"]
    assert published["value"].max() == 0.028
    rates = data[(data["what"] == "best lr") & (data["optimizer"] == "powerstep")]
    assert rates["model"].tolist() == [*SIZES]


def test_the_tables_show_the_gaps_and_the_trend():
    of = results(made_up())
    numbers, shown = ladder_table(of)
    assert shown.index.tolist() == [*SIZES]
    assert numbers["gap_per_byte"].tolist() == pytest.approx((numbers["gap"] / 2).tolist())
    numbers, shown = trend_table(of)
    slope = numbers.set_index("what").loc["nats per decade of parameters"]
    assert slope["low"] < SLOPE < slope["high"]
    assert [name for name in numbers["what"] if "extrapolated" in name] == [
        "gap at 10M, extrapolated",
        "gap at 124M, extrapolated",
        "gap at 8B, extrapolated",
    ]
    rates = numbers[numbers["what"].str.startswith("octaves")].set_index("optimizer")
    assert rates.index.tolist() == ["adamw", "powerstep"]
    assert (rates["low"] < 0).all()  # the made-up best rates are the same at all sizes
    assert (rates["high"] > 0).all()
    for table in (ladder_table, trend_table):
        assert table(results(made_up()[:1]))[1].empty


QUESTION = Question(
    rule="gap_trend",
    a={"optimizer": "powerstep"},
    b=({"optimizer": "adamw"},),
    margin=0.005,
    least=4,
)


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.03, "not supported"), (-0.03, "supported"), (0.005, "inconclusive")]
)
def test_a_trend_is_judged_by_its_interval(slope, verdict):
    rows = made_up()
    for row in rows:
        if row["optimizer"] == "powerstep":
            row["final_val_loss"] += (slope - SLOPE) * math.log10(row["parameters"] / 1e5)
    (finding,) = gap_trend(results(rows), QUESTION)
    assert finding.verdict == verdict
    assert finding.low < slope < finding.high
    assert finding.n == 4


def test_a_trend_over_three_sizes_or_of_models_that_have_not_learned_is_not_judged():
    rows = [row for row in made_up() if row["model"] != "b"]
    assert [each.verdict for each in gap_trend(results(rows), QUESTION)] == ["inconclusive"]
    rows = [row | {"unigram_loss": 4.0, "bigram_loss": 2.0} for row in made_up()]
    assert [each.verdict for each in gap_trend(results(rows), QUESTION)] == [NOT_TESTED]
    rows = [row for row in made_up() if row["model"] in "ab"]
    assert [*gap_trend(results(rows), QUESTION)] == []


def test_a_plan_with_a_ladder_has_its_figure_and_tables():
    rows = [
        planned("adamw", experiment="learning_rate", model=model, rung=rung)
        for rung, model in enumerate(SIZES, start=1)
    ]
    assert "ladder" in figures(rows)
    assert {"ladder", "trend"} <= {*tables(rows)}
    assert "ladder" not in figures([row | {"rung": 0} for row in rows])
