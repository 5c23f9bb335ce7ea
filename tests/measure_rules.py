"""Measure how often each rule decides wrongly: `make false-positives`.

The runs are made up at the boundary of a part's statement, where a rule that supports it and a rule
that refutes it are both wrong. Each share should be at most 5 % within its error.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np

from analysis.claims.definitions import Question
from analysis.claims.rules import own_rates, pairs, stability
from analysis.claims.verdicts import NOT_SUPPORTED, SUPPORTED
from tests.analysis.made_up import RATES, results, run

DRAWS = 1000
SLOPE, NOISE, SEED_EFFECT = 0.12, 0.008, 0.02  # nats; about those of small models
A, B = {"optimizer": "powerstep"}, [{"optimizer": "adamw"}]


def sweep(rng, optimizer, lowest, effects, curvature, middle=4e-3, offset=0.0, **columns):
    """Return runs around a quadratic, with an effect of each seed and noise of each run.

    The rates are a grid with factor 2. The best one is `offset` octaves from its middle.
    """
    return [
        run(
            optimizer,
            lowest
            + curvature * (octaves - offset) ** 2
            + effects[seed]
            + NOISE * rng.standard_normal(),
            seed,
            middle * 2.0**octaves,
            **columns,
        )
        for octaves in (-2, -1, 0, 1, 2)
        for seed in range(len(effects))
    ]


def swept(
    gap: float, a: float = 0.02, b: float = 0.06, *, seeds: int = 3, middle_of_b: float = 4e-3
) -> Callable:
    """Return a maker of both sweeps and of AdamW's at three lengths; a and b are curvatures."""

    def make(rng):
        effects = SEED_EFFECT * rng.standard_normal(seeds)
        offset = rng.uniform(-0.5, 0.5)
        rows = sweep(rng, "powerstep", 3 + gap, effects, a, offset=offset)
        for steps in (50, 100, 200):
            lowest = 3 - SLOPE * math.log(steps / 100)
            varied = {"argument": "training.steps", "value": str(steps), "planned_steps": steps}
            columns = varied if steps != 100 else {}
            rows += sweep(rng, "adamw", lowest, effects, b, middle_of_b, offset, **columns)
        return rows

    return make


def paired(mean: float, n: int) -> Callable:
    """Return a maker of pairs at one rate, whose difference has a known mean."""

    def make(rng):
        return [
            run(
                name, 3 + (mean if name == "powerstep" else 0) + NOISE * rng.standard_normal(), seed
            )
            for seed in range(n)
            for name in ("powerstep", "adamw")
        ]

    return make


def early(n: int) -> Callable:
    """Return a maker of runs whose early training losses have the same mean for both."""

    def make(rng):
        return [
            run(name, 3.0, seed) | {"early": 5 + 0.05 * rng.standard_normal()}
            for name in ("powerstep", "adamw")
            for seed in range(n)
        ]

    return make


def unstable(share: float, of_other: float) -> Callable:
    """Return a maker of runs that have a spike with a known probability."""

    def make(rng):
        return [
            run(name, 3.0, seed, lr, spikes=int(rng.random() < chance))
            for name, chance in (("powerstep", share), ("adamw", of_other))
            for lr in RATES[:3]
            for seed in range(4)
        ]

    return make


RATIO = 0.9
TEN_PERCENT = -SLOPE * math.log(RATIO)
CASES = {
    "token ratio 0.9": (own_rates.token_ratio, {"margin": RATIO}, swept(TEN_PERCENT)),
    "token ratio 0.9, curvatures swapped": (
        own_rates.token_ratio,
        {"margin": RATIO},
        swept(TEN_PERCENT, 0.06, 0.02),
    ),
    "token ratio 1/0.9, both sides": (
        own_rates.token_ratio,
        {"margin": RATIO, "options": {"both_sides": True}},
        swept(-TEN_PERCENT),
    ),
    "gap 0.1": (own_rates.gap_above, {"margin": 0.1}, swept(0.1)),
    "widths 1.5": (own_rates.curvature, {"margin": 1.5}, swept(0.1, 0.06 / 2.25, 0.06)),
    "widths 1/1.5": (own_rates.curvature, {"margin": 1.5}, swept(0.1, 0.06 * 2.25, 0.06)),
    "difference 0.01 of 12 pairs": (
        pairs.attained_bound,
        {"margin": 0.01, "least": 12},
        paired(0.01, 12),
    ),
    "best rates 3 apart": (
        own_rates.best_lr_ratio,
        {"options": {"low": 3.0, "high": 10.0}},
        swept(0.1, middle_of_b=12e-3),
    ),
    "best rates 10 apart": (
        own_rates.best_lr_ratio,
        {"options": {"low": 3.0, "high": 10.0}},
        swept(0.1, middle_of_b=40e-3),
    ),
    "equal early losses of 3 pairs": (pairs.early_area, {}, early(3)),
    "unstable in 25 % of runs, the other in none": (
        stability.stability,
        {"margin": 0.25},
        unstable(0.25, 0.0),
    ),
    "unstable in 20 % of runs, as the other": (
        stability.stability,
        {"margin": 0.25},
        unstable(0.2, 0.2),
    ),
}
# A rule that refutes is right here, or one that supports.
TRUE = {"unstable in 25 % of runs, the other in none": NOT_SUPPORTED}


def measure(name: str) -> tuple[float, float]:
    """Return the shares of draws in which a case is wrongly supported and wrongly refuted."""
    rule, fields, make = CASES[name]
    question = Question(rule=rule.__name__, a=A, b=B, **fields)
    rng = np.random.default_rng(0)
    counts = Counter(
        next(rule(results(make(rng), _early_losses), question)).verdict for _ in range(DRAWS)
    )
    return counts[SUPPORTED] / DRAWS, counts[NOT_SUPPORTED] / DRAWS


def _early_losses(row: dict) -> list[float]:
    """Return the training losses of a run's first steps, if they matter."""
    return [row["early"]] * 20 if "early" in row else []


if __name__ == "__main__":
    error = 100 * math.sqrt(0.05 * 0.95 / DRAWS)
    sys.stdout.write(f"shares of {DRAWS} draws in %, each ± {error:.1f} at 5 %\n")
    sys.stdout.write("| truth, at the boundary | supported | not supported |\n|---|---|---|\n")
    for name in CASES:
        supported, refuted = (f"{100 * share:.1f}" for share in measure(name))
        if TRUE.get(name) == NOT_SUPPORTED:
            refuted += " (rightly)"
        sys.stdout.write(f"| {name} | {supported} | {refuted} |\n")
        sys.stdout.flush()
