"""The convergence study uses the documented problem and update, and its fits are correct."""

import numpy as np
import pytest

from experiments.studies import convergence
from experiments.studies.convergence import draw_noise, fit, gradient, run, write_convergence


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
    ends, means = run("symmetric", 0.0, 0.1, steps=30)
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
    a, b, c = (run("skewed", sigma, 0.1, steps=50)[1] for sigma in (0.1, 0.1, 0.2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_known_rate_and_floor_are_found():
    steps = np.unique(np.logspace(0, 5, 61).astype(int))
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=(len(steps), 8))
    pure = fit(steps, (3 * steps**-0.5)[:, None] * noise)
    assert pure["slope"] == pytest.approx(-0.5, abs=0.01)
    assert pure["floor"] == pytest.approx(0, abs=1e-4)  # 1e-4 is 1 % of the last value
    floored = fit(steps, (0.02 + 3 * steps**-0.5)[:, None] * noise)
    assert floored["floor"] == pytest.approx(0.02, rel=0.01)
    assert floored["floor_low"] < floored["floor"] < floored["floor_high"]
    assert floored["rate"] == pytest.approx(3, rel=0.05)


def test_both_files_are_the_same_on_a_rerun(tmp_path, monkeypatch):
    monkeypatch.setattr(convergence, "STEPS", 200)
    for name in ("a", "b"):
        write_convergence(tmp_path / name / "convergence.csv")
    for name in ("convergence.csv", "convergence_fits.csv"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert len(first.splitlines()) > 24
