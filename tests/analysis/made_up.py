"""Results of runs that were never trained, in memory."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.frames import Results

UNIGRAM, BIGRAM = 6.0, 4.0  # so a model has learned at 4.5
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)


def run(optimizer: str, loss: float, seed: int = 0, lr: float = 1e-3, **columns: object) -> dict:
    """Return the row of a run with a final loss; it diverged if the loss is inf."""
    diverged = math.isinf(loss)
    row = {
        "experiment": "learning_rate",
        "model": "gpt2-pico",
        "optimizer": optimizer,
        "label": optimizer.title(),
        "lr": lr,
        "shared_lr": 1e-3,
        "argument": "",
        "value": "",
        "seed": seed,
        "rung": 0,
        "planned_steps": 100,
        "tokens": 1e5,
        "bytes_per_token": 2.0,
        "warmup_steps": 10,
        "unigram_loss": UNIGRAM,
        "bigram_loss": BIGRAM,
        "status": "diverged" if diverged else "completed",
        "steps": 50 if diverged else 100,
        "final_val_loss": math.nan if diverged else loss,
        "final_val_error": math.nan if diverged else 0.02,
        "best_val_loss": 3.0 if diverged else loss,
        "rise": 0.0,
        "spikes": 0,
        "largest_spike": 0.0,
        "parameters": 1e6,
        "restored_from": math.nan,
    } | columns
    name = [row[key] for key in ("model", "optimizer", "argument", "value", "lr", "seed")]
    return {"run": "/".join(map(str, [*name, row["planned_steps"]]))} | row


def sweep(
    optimizer: str,
    lowest: float,
    *,
    best: float = 4e-3,
    curvature: float = 0.05,
    rates: Iterable[float] = RATES,
    seeds: int = 3,
    noise: float = 0.004,
    **columns: object,
) -> list[dict]:
    """Return runs at several rates, whose loss is a quadratic in log2(lr) with a known minimum."""
    # Independent of the order in which sweeps are made, and different for each of them.
    rng = np.random.default_rng([*optimizer.encode(), *str(sorted(columns.items())).encode()])
    return [
        run(
            optimizer,
            lowest + curvature * math.log2(lr / best) ** 2 + noise * rng.standard_normal(),
            seed,
            lr,
            **columns,
        )
        for lr in rates
        for seed in range(seeds)
    ]


def lengths(slope: float = 0.12, **columns: object) -> list[dict]:
    """Return AdamW's sweeps with half and twice the steps, whose lowest losses give the slope."""
    rows = []
    for steps in (50, 100, 200):
        lowest = 3.0 - slope * math.log(steps / 100)
        varied = {"argument": "training.steps", "value": str(steps), "planned_steps": steps}
        rows += sweep("adamw", lowest, noise=0.001, **varied | columns)
    return rows


def results(
    rows: Iterable[dict], losses_of: Callable[[dict], Iterable[float]] | None = None
) -> Results:
    """Return the results of runs; `losses_of` returns the training losses of one, from step 1."""
    rows = [*rows]
    logged = [
        {"run": row["run"], "step": step, "train_loss": loss}
        for row in rows
        for step, loss in enumerate(losses_of(row) if losses_of else [], start=1)
    ]
    metrics = pd.DataFrame(logged, columns=["run", "step", "train_loss"])
    return Results(Path("results"), pd.DataFrame(rows), metrics)
