"""Writes the files that the runs of a profile leave behind."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

LABELS = {
    "adamw": "AdamW",
    "adamw-int8": "AdamW int8, naive",
    "powerstep": "PowerStep",
    "powerstep-int8": "PowerStep int8",
    "stacey": "Stacey(p,2)",
    "lion": "Lion",
}
STATE = {
    "adamw": 8.0,
    "adamw-int8": 2.0625,
    "powerstep": 4.0,
    "powerstep-int8": 1.03125,
    "stacey": 8.0,
    "lion": 4.0,
}
PARAMETERS = 1000
STEPS = 100


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """Return an empty `results/`."""
    return tmp_path / "results"


def planned(optimizer: str, seed: int = 0, **row: object) -> dict[str, object]:
    """Return a row of a plan (PlannedRun.row) with some of its columns changed."""
    row = {
        "experiment": "comparison",
        "model": "gpt2-pico",
        "optimizer": optimizer,
        "label": LABELS[optimizer],
        "lr": 1e-3,
        "shared_lr": 1e-3,
        "argument": "",
        "rung": 0,
        "extension": 0,
        "value": "",
        "seed": seed,
        "dataset": "tiny",
        "planned_steps": STEPS,
        "batch_size": 8,
        "context": 64,
        "warmup_steps": 10,
        "min_lr_ratio": 0.1,
        "weight_decay": 0.1,
        "grad_clip_norm": 1.0,
    } | row
    varied = f"{row['argument']}{row['value']}"
    row["run"] = f"{row['model']}/{optimizer}/lr{row['lr']:g}_seed{seed}{varied}"
    return row


def write_run(
    results: Path,
    row: dict[str, object],
    final: float,
    diverged_at: int | None = None,
    **summary: object,
) -> None:
    """Write the metrics.parquet and summary.json of a planned run.

    Its losses fall in a line from 2 nats above `final`; validation every tenth step. One that
    diverges has NaN as its last train_loss.
    """
    folder = results / "runs" / row["run"]
    folder.mkdir(parents=True, exist_ok=True)
    step = np.arange(1, STEPS + 1)
    loss = final + 2 * (1 - step / STEPS)
    frame = pd.DataFrame(
        {
            "step": step,
            "tokens": step * row["batch_size"] * row["context"],
            "train_loss": loss,
            "val_loss": np.where(step % 10 == 0, loss, np.nan),
            "lr": row["lr"],
            "grad_norm": 1.0,
            "update_rms": 1e-3,
            "step_seconds": 0.1,
            "optimizer_seconds": 0.01,
        }
    )
    if diverged_at:
        frame = frame[frame["step"] <= diverged_at].copy()
        frame.loc[frame.index[-1], ["train_loss", "val_loss"]] = np.nan
    frame.to_parquet(folder / "metrics.parquet")
    content = {
        "status": "diverged" if diverged_at else "completed",
        "steps": int(frame["step"].iloc[-1]),
        "tokens": int(frame["tokens"].iloc[-1]),
        "final_val_loss": None if diverged_at else final,
        "final_val_error": None if diverged_at else 0.02,
        "best_val_loss": final,
        "last_val_loss": None if diverged_at else final,
        "spikes": int(bool(diverged_at)),
        "largest_spike": None if diverged_at else 0.0,
        "rise": None if diverged_at else 0.0,
        "parameters": PARAMETERS,
        "state_bytes": int(PARAMETERS * STATE[row["optimizer"]]),
        "peak_memory_bytes": 2**29,
        "tokens_per_second": 1e4,
        "optimizer_seconds": 1e-3,
        "corpus": {"name": "tiny", "text_sha256": "ab" * 32, "as_recorded": True},
        "provenance": {"commit": "c" * 40, "dirty": False, "packages": {"torch": "2.13.0"}},
    }
    (folder / "summary.json").write_text(json.dumps(content | summary), encoding="utf-8")


def write_plan(results: Path, rows: list[dict[str, object]]) -> Path:
    """Write a plan with its settings, and return its path."""
    path = results / "mine" / "plans" / "plan.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    path.with_suffix(".yaml").write_text("dataset: tiny\n", encoding="utf-8")
    return path


def write_studies(results: Path) -> None:
    """Write the files of the studies: two models, two noise levels, and the costs of a step."""
    results.mkdir(parents=True, exist_ok=True)
    mib = {"adamw": 976.4, "powerstep": 488.2, "powerstep-int8": 125.9}
    per_parameter = {"adamw": 8.0, "powerstep": 4.0, "powerstep-int8": 1.03125}
    pd.DataFrame(
        {
            "model": model,
            "family": "qwen3",
            "parameters": 1_000_000,
            "routed_expert_parameters": 0,
            "optimizer": optimizer,
            "label": LABELS[optimizer],
            "state_bytes": 1_000_000 * size,
            "state_bytes_routed_experts": 0,
            "devices": 256,
            "tp": 8,
            "pp": 2,
            "ep": 1,
            "mib_per_device": mib[optimizer],
            "mib_per_device_as_paper": mib[optimizer],
            "mib_per_device_replicated": 16 * mib[optimizer],
        }
        for model in ("gpt2-small", "qwen3-32b")
        for optimizer, size in per_parameter.items()
    ).to_csv(results / "memory.csv", index=False)
    fits = pd.DataFrame(
        {
            "noise": noise,
            "sigma": sigma,
            "beta": beta,
            "gamma": 0.9,
            "steps": 1000,
            "seeds": 8 if sigma else 1,
            "predicted_floor": 0.04 * sigma**2 if noise == "skewed" else 0.0,
            "start": 0.9,
            "last": 0.1 if sigma else 1e-6,
            "fitted_from": 100.0,
            "slope": -0.4,
            "slope_low": -0.5 if sigma else np.nan,
            "slope_high": -0.3 if sigma else np.nan,
            "floor": 0.04 * sigma**2,
            "floor_low": 0.03 * sigma**2 if sigma else np.nan,
            "floor_high": 0.05 * sigma**2 if sigma else np.nan,
            "rate": 1.0,
        }
        for noise in ("symmetric", "skewed")
        for sigma in (0.0, 0.1, 0.3)
        for beta in (0.0, 0.1)
    )
    fits.to_csv(results / "convergence_fits.csv", index=False)
    curves = fits[["noise", "sigma", "beta", "gamma"]].merge(
        pd.DataFrame({"step": [1, 10, 100, 1000]}), how="cross"
    )
    norm = 1 / curves["step"] ** 0.5
    curves.assign(grad_norm_sq=norm, min_grad_norm_sq=norm, low=norm * 0.9, high=norm * 1.1).to_csv(
        results / "convergence.csv", index=False
    )
    times = pd.DataFrame({"optimizer": ["AdamW, fused", "PowerStep fp32"], "step_ms": [60.0, 66.0]})
    times = times.assign(parameters=124_000_000, device="cpu", threads=2, rounds=15, gflops=66.0)
    for name, values in {
        "ratio": (1.0, 1.1),
        "ns_per_parameter": (0.48, 0.53),
        "extra_ns_per_parameter": (0.0, 0.05),
    }.items():
        for suffix, factor in {"": 1.0, "_low": 0.9, "_high": 1.2}.items():
            times[name + suffix] = [values[0], values[1] * factor]
    times.to_csv(results / "step_cost.csv", index=False)
    names = ["adamw", "powerstep", "powerstep-int8"]
    peaks = pd.DataFrame({"optimizer": names, "peak_bytes": [2.5e9, 2.1e9, 1.7e9]})
    peaks["label"] = peaks["optimizer"].map(LABELS)
    peaks["state_bytes"] = [1.0e9, 5.0e8, 1.25e8]
    peaks.assign(
        model="gpt2-small",
        parameters=125_000_000,
        device="cpu",
        batch_size=1,
        context=128,
        weights_and_gradients_bytes=1e9,
        first_step_extra_bytes=2e6,
    ).to_csv(results / "peak_memory.csv", index=False)
