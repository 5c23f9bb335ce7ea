"""The files that six runs of two optimizers would have left behind."""

import json

import numpy as np
import pandas as pd
import pytest

FINAL = {
    ("adamw", 0): 3.0,
    ("adamw", 1): 3.2,
    ("adamw", 2): 3.1,
    ("powerstep", 0): 3.1,
    ("powerstep", 1): 3.25,
    ("powerstep", 2): 3.15,
}
LABELS = {"adamw": "AdamW", "powerstep": "PowerStep", "lion": "Lion"}
STATE = {"adamw": 8, "powerstep": 4, "lion": 4}


def curve(final, steps=100):
    """Return a loss that falls to `final` at the last step."""
    step = np.arange(1, steps + 1)
    return step, final + 2 * (1 - step / steps)


def write_run(runs, name, optimizer, final, diverged_at, as_recorded):
    """Write a run's metrics.parquet and summary.json."""
    folder = runs / name
    folder.mkdir(parents=True)
    step, loss = curve(final)
    val_loss = np.where(step % 10 == 0, loss + 0.01, np.nan)
    frame = pd.DataFrame({"step": step, "train_loss": loss, "val_loss": val_loss})
    if diverged_at:
        frame = frame[frame["step"] <= diverged_at].copy()
        frame.loc[frame.index[-1], ["train_loss", "val_loss"]] = np.nan
    frame.to_parquet(folder / "metrics.parquet")
    summary = {
        "status": "diverged" if diverged_at else "completed",
        "steps": int(frame["step"].iloc[-1]),
        "final_val_loss": None if diverged_at else final,
        "parameters": 1000,
        "state_bytes": 1000 * STATE[optimizer],
        "tokens_per_second": 1e4,
        "optimizer_seconds": 1e-3,
        "peak_memory_bytes": 2**29,
        "corpus": {"name": "tiny", "text_sha256": "ab" * 32, "as_recorded": as_recorded},
        "provenance": {"commit": "c" * 40, "packages": {"torch": "2.13.0"}},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def results(tmp_path):
    """Return a function that makes the folder of a profile with its runs."""

    def make(diverged=(), diverged_at=37, model="gpt2-pico", finals=FINAL, as_recorded=None):
        rows = []
        for (optimizer, seed), final in finals.items():
            run = f"{model}/{optimizer}/seed{seed}"
            at = diverged_at if (optimizer, seed) in diverged else None
            write_run(tmp_path / "runs", run, optimizer, final, at, as_recorded)
            rows.append(
                {
                    "experiment": "comparison",
                    "model": model,
                    "optimizer": optimizer,
                    "label": LABELS[optimizer],
                    "lr": 1e-3,
                    "seed": seed,
                    "run": run,
                }
            )
        folder = tmp_path / "mine"
        folder.mkdir()
        pd.DataFrame(rows).to_csv(folder / "plan.csv", index=False)
        return folder

    return make
