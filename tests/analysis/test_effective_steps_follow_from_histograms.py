"""Quantiles of effective steps, and the rules on them, are those of the raw magnitudes."""

import numpy as np
import pytest
import torch

from analysis.claims.definitions import Question
from analysis.claims.rules import effective_steps as rules
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from analysis.estimates.effective_steps import (
    at_fractions,
    merged,
    quantiles,
    read_logged,
    survival,
)
from analysis.frames import read_plan, read_results
from experiments.runs.effective_steps import (
    COMPARISONS_FILE,
    HISTOGRAMS_FILE,
    ROUNDING_FILE,
    write_rows,
)
from experiments.training.measuring.distributions import histograms
from tests.analysis.conftest import planned, write_plan, write_run

RNG = np.random.default_rng(0)
OPTIONS = {"format": "int8", "spearman": 0.9, "iqr": 0.3}
ASKED = Question(rule="any", a={"optimizer": "powerstep"}, options=OPTIONS)
LAYERS = {"q": slice(0, 4000), "norm": slice(4000, 5000)}


def momentum(n=5000, scale=1e-3):
    return torch.from_numpy(scale * RNG.standard_t(3, n)).float()


def rows_of(x, step, quantity="momentum", layers=LAYERS):
    return [{"step": step, "quantity": quantity} | row for row in histograms(x, layers)]


@pytest.fixture
def logged(results_folder):
    """Return a function that writes what runs have logged, and reads their results."""

    def make(*runs, diverged_at=None, **summary):
        plan = []
        for number, (model, files) in enumerate(runs):
            row = planned("powerstep", number, experiment="effective_steps", model=model)
            of_run = {key: values[number] for key, values in summary.items()}
            write_run(results_folder, row, 3.0, diverged_at, **of_run)
            for name, rows in files.items():
                write_rows(results_folder / "runs" / row["run"] / name, rows)
            plan.append(row)
        return read_results(read_plan(write_plan(results_folder, plan)), results_folder)

    return make


def test_quantiles_are_those_of_the_raw_momenta(logged):
    x = momentum()
    results = logged(("tiny", {HISTOGRAMS_FILE: rows_of(x, 100)}))
    q = (0.0, 0.01, 0.5, 0.99, 1.0)
    for measure, exponent in (("effective step", -0.9), ("displacement", 0.1)):
        found = quantiles(read_logged(results), "powerstep", q, measure).set_index("layer")
        for layer, part in {"all": slice(None), **LAYERS}.items():
            raw = np.abs(x[part].double().numpy()) ** exponent
            # A bin is at most 25 % wide.
            expected = np.quantile(raw, q)
            np.testing.assert_allclose(found.loc[layer, list(q)].astype(float), expected, rtol=0.06)
            assert found.loc[layer, 1.0] == pytest.approx(raw.max(), rel=1e-5)


def test_layers_merge_to_the_histogram_of_both(logged):
    x = momentum()
    results = logged(("tiny", {HISTOGRAMS_FILE: rows_of(x, 100)}))
    rows = read_logged(results)
    both = quantiles(merged(rows[rows["layer"] != "all"]), "powerstep", [0.25, 0.75])
    whole = quantiles(rows[rows["layer"] == "all"], "powerstep", [0.25, 0.75])
    np.testing.assert_allclose(both[[0.25, 0.75]], whole[[0.25, 0.75]])
    assert both["count"].item() == 5000


def test_the_survival_is_the_share_of_larger_steps(logged):
    x = momentum()
    rows = read_logged(logged(("tiny", {HISTOGRAMS_FILE: rows_of(x, 100)})))
    multiple, share = survival(next(rows[rows["layer"] == "all"].itertuples()), -0.9)
    steps = np.abs(x.double().numpy()) ** -0.9
    for at in (0.2, 1.0, 10.0, 100.0):
        expected = (steps > at * np.median(steps)).mean()
        found = np.interp(-at, -multiple, share)
        assert found == pytest.approx(expected, rel=0.1, abs=2e-4)


def steady(scales=(1e-3, 1e-3, 1e-3)):
    return [
        row
        for step, scale in zip((20, 50, 100), scales, strict=True)
        for row in rows_of(momentum(scale=scale), step)
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (steady(), SUPPORTED),
        (steady((1e-3, 1e-3, 1e-5)), NOT_SUPPORTED),  # the median drifts by 100^0.9
        (steady((10.0, 10.0, 10.0)), NOT_SUPPORTED),  # |m| above C/(1-γ) = 10
    ],
)
def test_steps_are_bounded_from_below_if_the_momentum_is_from_above(logged, rows, verdict):
    results = logged(("tiny", {HISTOGRAMS_FILE: rows}))
    (found,) = rules.effective_step_from_below(results, ASKED)
    assert found.verdict == verdict
    assert "bound 0.126" in found.measured


def test_runs_that_disagree_on_the_bound_decide_nothing(logged):
    runs = [("tiny", {HISTOGRAMS_FILE: steady((scale,) * 3)}) for scale in (1e-3, 10.0)]
    (found,) = rules.effective_step_from_below(logged(*runs), ASKED)
    assert (found.verdict, found.n) == (INCONCLUSIVE, 2)


def test_the_largest_model_comes_first(logged):
    runs = [(model, {HISTOGRAMS_FILE: steady()}) for model in ("small", "large")]
    found = rules.effective_step_from_below(logged(*runs, parameters=[10**6, 10**7]), ASKED)
    assert [each.scale.split(",")[0] for each in found] == ["large", "small"]


def test_a_run_that_diverged_early_decides_nothing_and_has_no_end(logged):
    results = logged(("tiny", {HISTOGRAMS_FILE: rows_of(momentum(), 12)}), diverged_at=12)
    assert not [*rules.effective_step_from_below(results, ASKED)]
    assert set(at_fractions(read_logged(results))["at"]) == {0.1}


def sized(grows):
    """Return runs of three sizes, whose largest step grows with the size, or not."""
    runs = []
    for number, n in enumerate((1000, 10_000, 100_000)):
        # Equally spaced momenta: the smallest is 1/n of the largest.
        x = torch.linspace(1 / n if grows else 1e-3, 1.0, n) * 1e-2
        rows = rows_of(x, 100, layers={"q": slice(0, n)})
        runs.append((f"model{number}", {HISTOGRAMS_FILE: rows}))
    return runs


def test_the_largest_step_grows_with_size_if_the_smallest_momentum_falls(logged):
    (found,) = rules.effective_step_from_above(logged(*sized(grows=True)), ASKED)
    assert found.verdict == NOT_SUPPORTED
    # The ratio of largest to median step is (n/2)^0.9.
    assert found.value == pytest.approx(0.9, abs=0.02)


def test_two_sizes_say_nothing_about_growth(logged):
    (found,) = rules.effective_step_from_above(logged(*sized(grows=True)[:2]), ASKED)
    assert found.verdict == INCONCLUSIVE


def test_seeds_of_one_size_are_no_sizes_though_their_zeros_differ(logged):
    x = momentum()
    runs = []
    for zeros in (0, 1000, 2000):
        x[:zeros] = 0
        runs.append(("tiny", {HISTOGRAMS_FILE: rows_of(x, 100)}))
    (found,) = rules.effective_step_from_above(logged(*runs), ASKED)
    assert (found.verdict, found.n) == (INCONCLUSIVE, 3)
    assert np.isnan(found.value)


def test_a_largest_step_that_does_not_grow_is_bounded(logged):
    (found,) = rules.effective_step_from_above(logged(*sized(grows=False)), ASKED)
    assert found.verdict == SUPPORTED


def compared(spearman, iqr):
    return [
        {"step": step, "layer": layer, "spearman": spearman, "log_ratio_iqr": iqr}
        for step in (10, 50, 100)
        for layer in ("all", "q", "norm")
    ]


@pytest.mark.parametrize(
    ("spearman", "iqr", "verdict"),
    [(0.95, 0.2, SUPPORTED), (0.85, 0.2, NOT_SUPPORTED), (0.95, 0.4, NOT_SUPPORTED)],
)
def test_closeness_to_adam_needs_rank_and_spread(logged, spearman, iqr, verdict):
    results = logged(("tiny", {COMPARISONS_FILE: compared(spearman, iqr)}))
    (found,) = rules.effective_step_as_adams(results, ASKED)
    assert found.verdict == verdict


def test_runs_that_disagree_on_adam_decide_nothing(logged):
    runs = [("tiny", {COMPARISONS_FILE: compared(spearman, 0.2)}) for spearman in (0.95, 0.85)]
    (found,) = rules.effective_step_as_adams(logged(*runs), ASKED)
    assert (found.verdict, found.value) == (INCONCLUSIVE, 0.85)


def test_rounding_is_described_at_the_end(logged):
    key = {"layer": "all", "format": "int8", "m_error": 0.01}
    rows = [
        key
        | {"step": step, "accumulated": kept, "u_error": 0.05 * (1 + kept) + (step == 50)}
        | {"sign_flips": 0.004 * kept, "zero_codes": 0.01}
        for step in (50, 100)
        for kept in (False, True)
    ]
    (found,) = rules.rounding_errors(logged(("tiny", {ROUNDING_FILE: rows})), ASKED)
    assert "changes the update by 5.00%" in found.measured
    assert "by 10.00% and flips 0.40%" in found.measured


def test_displacements_are_described_with_their_bound(logged):
    (found,) = rules.displacement(logged(("tiny", {HISTOGRAMS_FILE: steady()})), ASKED)
    assert "bound 1.26" in found.measured


@pytest.mark.parametrize(
    "rule",
    [
        "effective_step_from_below",
        "effective_step_from_above",
        "effective_step_as_adams",
        "displacement",
        "rounding_errors",
    ],
)
def test_runs_that_have_logged_nothing_have_no_finding(logged, rule):
    assert not [*getattr(rules, rule)(logged(("tiny", {})), ASKED)]
