"""The convergence study uses the documented problem and update, and its fits are correct."""

import numpy as np
import pytest

from experiments.studies import convergence
from experiments.studies.convergence import (
    draw_noise,
    fit,
    gradient,
    predicted_floor,
    run,
    write_convergence,
)
from experiments.studies.noise_floor import stationary_gradient


def objective(x):
    return (convergence._SCALES * x * x / (1 + x * x)).sum()


def test_the_gradient_is_that_of_the_objective():
    x = np.random.default_rng(0).normal(size=convergence.DIMENSIONS)
    numeric = np.empty_like(x)
    for i in range(len(x)):
        step = np.zeros_like(x)
        step[i] = 1e-6
        numeric[i] = (objective(x + step) - objective(x - step)) / 2e-6
    np.testing.assert_allclose(gradient(x), numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", convergence.KINDS)
def test_noise_has_no_mean_and_the_stated_deviation(kind):
    noise = draw_noise(kind, 0.3, np.random.default_rng(0), (200, 5000))
    assert noise.mean() == pytest.approx(0, abs=5 * 0.3 / 1000)
    assert noise.std() == pytest.approx(0.3, rel=5e-3)
    third = (noise**3).mean() / 0.3**3
    # A variable with two values, one of probability p, has skewness (1 - 2p) / √(p (1 - p)).
    # Here p = 0.1, the study's SKEW.
    assert third == pytest.approx({"symmetric": 0.0, "skewed": 0.8 / 0.3}[kind], abs=0.05)


def test_steps_are_the_algorithms():
    ends, (means,) = run([("symmetric", 0.0)], 0.1, steps=30)
    x, momentum, squares = np.full(convergence.DIMENSIONS, 1.5), 0.0, []
    for t in range(1, 31):
        g = convergence._SCALES * 2 * x / (1 + x**2) ** 2
        squares.append((g**2).sum())
        momentum = 0.9 * momentum + g
        x = x - 0.05 / t**0.5 * np.sign(momentum) * abs(momentum) ** 0.1
    begin = 0
    for end, mean in zip(ends, means, strict=True):
        np.testing.assert_allclose(mean, np.mean(squares[begin:end]), rtol=1e-12)
        begin = end


def test_a_rerun_draws_the_same_noise_and_another_level_does_not():
    a, b, c = (run([("skewed", sigma)], 0.1, steps=150)[1][0] for sigma in (0.1, 0.1, 0.2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    together = run([("symmetric", 0.3), ("skewed", 0.1), ("skewed", 0.2)], 0.1, steps=150)[1]
    np.testing.assert_array_equal(together[1:], [a, c])


def curve(floor):
    """Return the curve of 8 seeds that fall from 1 to floor + 3/√T, with 1 % of noise."""
    steps = np.unique(np.logspace(0, 5, 61).astype(int))
    values = np.where(steps < 100, 1.0, floor + 3 * steps**-0.5)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(len(steps), 8))
    return steps, values[:, None] * noise


def test_a_known_rate_and_floor_are_found_after_the_transient():
    pure = fit(*curve(0.0))
    # It first is below a tenth of the start at step 1000 or soon after.
    assert 10_000 < pure["fitted_from"] < 20_000
    assert pure["slope"] == pytest.approx(-0.5, abs=0.03)
    assert pure["floor_low"] < 0 < pure["floor_high"]
    floored = fit(*curve(0.02))
    assert floored["floor"] == pytest.approx(0.02, rel=0.05)
    assert floored["floor_low"] < floored["floor"] < floored["floor_high"]
    assert floored["rate"] == pytest.approx(3, rel=0.2)


def test_a_curve_that_is_still_falling_from_its_start_is_not_fitted():
    steps, values = curve(0.0)
    early = steps < 5000
    found = fit(steps[early], values[early])
    assert np.isnan(found["floor"])
    assert np.isnan(found["slope_low"])
    assert found["last"] == pytest.approx(3 / 5000**0.5, rel=0.1)


def test_without_noise_there_is_one_run_and_no_interval():
    steps, (by_seed,) = run([("skewed", 0.0)], 0.1, steps=50)
    assert by_seed.shape == (len(steps), 1)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.2])
def test_the_stationary_gradient_is_that_of_simulated_momenta(beta):
    rng = np.random.default_rng(0)
    xi = draw_noise("skewed", 1.0, rng, (400, 20_000))
    momentum = (xi * 0.9 ** np.arange(400)[:, None]).sum(axis=0)
    at = np.linspace(0.0, 0.06, 25)
    shift = -np.sign(momentum.mean() - np.median(momentum))  # the median is on the other side
    means = [(np.sign(m := momentum - shift * g / 0.1) * np.abs(m) ** beta).mean() for g in at]
    crossing = np.interp(0, np.array(means) * np.sign(means[-1] - means[0]), at)
    # 20,000 momenta give the root of their mean update to about 0.002.
    assert stationary_gradient(beta, 0.9, 0.1) == pytest.approx(crossing, abs=0.006)


def test_plain_momentum_has_no_floor_and_symmetric_noise_neither():
    assert stationary_gradient(1.0, 0.9, 0.1) == pytest.approx(0, abs=1e-6)
    assert predicted_floor("symmetric", 1.0, 0.1) == 0
    ratio = predicted_floor("skewed", 0.3, 0.1) / predicted_floor("skewed", 0.1, 0.1)
    assert ratio == pytest.approx(9)


def test_updates_at_the_stationary_gradient_have_mean_zero():
    rng = np.random.default_rng(1)
    gradient_, momentum = 0.1 * stationary_gradient(0.1, 0.9, 0.1), np.zeros(20_000)
    updates = []
    for step in range(400):
        momentum = 0.9 * momentum + gradient_ + draw_noise("skewed", 0.1, rng, 20_000)
        if step >= 100:
            updates.append((np.sign(momentum) * np.abs(momentum) ** 0.1).mean())
    mean, spread = np.mean(updates), np.std(updates)
    # Means of neighbouring steps are correlated over about 20 steps.
    assert abs(mean) < 4 * spread / np.sqrt(300 / 20)
    assert abs(mean) < 0.01


def test_both_files_are_the_same_on_a_rerun(tmp_path, monkeypatch):
    monkeypatch.setattr(convergence, "STEPS", 200)
    monkeypatch.setattr(convergence, "HORIZONS", (50, 100))
    for name in ("a", "b"):
        write_convergence(tmp_path / name / "convergence.csv")
    for name in ("convergence.csv", "convergence_fits.csv", "convergence_horizons.csv"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert len(first.splitlines()) > 15
