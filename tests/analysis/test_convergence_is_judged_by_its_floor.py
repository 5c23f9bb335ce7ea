"""The verdicts on convergence follow from floors, slopes and the predicted floor."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims.definitions import load_claims
from analysis.claims.rules.convergence import (
    converges_to_noise_floor,
    converges_without_floor,
)
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from tests.analysis.conftest import write_studies
from tests.analysis.made_up import results as made_up
from tests.analysis.made_up import run

ASKED = load_claims("powerstep")["10b"].parts[0]


@pytest.fixture
def judged(results_folder):
    """Return a function that changes the fits, and applies a rule to them."""

    def judge(rule, change=lambda fits: None):
        write_studies(results_folder)
        path = results_folder / "convergence_fits.csv"
        fits = pd.read_csv(path)
        change(fits)
        fits.to_csv(path, index=False)
        found = made_up([run("adamw", 3.0)])
        (finding,) = rule(type(found)(results_folder, found.runs, found.metrics), ASKED)
        return finding

    return judge


def setting(**values):
    def change(fits):
        for column, value in values.items():
            fits[column] = value

    return change


def test_a_floor_that_is_predicted_too_refutes_a_pure_rate(judged):
    assert judged(converges_without_floor).verdict == NOT_SUPPORTED


def test_a_floor_that_the_closed_form_does_not_have_refutes_nothing(judged):
    assert judged(converges_without_floor, setting(predicted_floor=0.0)).verdict == INCONCLUSIVE


def test_a_pure_rate_needs_its_whole_interval(judged):
    none = {"floor_low": -0.01, "slope": -0.55}
    reaches = setting(**none, slope_low=-0.7, slope_high=-0.4)
    lies = setting(**none, slope_low=-0.6, slope_high=-0.5)
    assert judged(converges_without_floor, reaches).verdict == INCONCLUSIVE
    assert judged(converges_without_floor, lies).verdict == SUPPORTED


def test_a_residual_of_the_noise_is_supported_by_size_and_power(judged):
    found = judged(converges_to_noise_floor)
    assert found.verdict == SUPPORTED
    assert found.value == pytest.approx(2.0)  # the made-up floors are 0.04·σ²


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (setting(predicted_floor=1.0), INCONCLUSIVE),
        (setting(floor=0.003), INCONCLUSIVE),  # the same at each σ
        (setting(last=0.01), NOT_SUPPORTED),  # also without noise
    ],
)
def test_a_residual_of_another_size_or_without_noise_is_not(judged, change, verdict):
    assert judged(converges_to_noise_floor, change).verdict == verdict


@pytest.mark.parametrize("rule", [converges_without_floor, converges_to_noise_floor])
def test_curves_that_are_too_short_leave_the_claims_untested(judged, rule):
    assert judged(rule, setting(floor_low=np.nan)).verdict == NOT_TESTED
