"""The metrics of a profile's runs as two data frames."""

import json
from pathlib import Path

import pandas as pd

from experiments.files import atomic


def collect(plan_file: Path, runs_folder: Path, folder: Path) -> None:
    """Join a profile's plan with what its runs left behind.

    Writes `runs.csv`, one row a planned run with the plan's columns and the run's summary, and
    `metrics.parquet`, one row a logged step with the column `run` that tells whose it is.

    Args:
        plan_file: CSV with the planned runs (experiments.__main__.plan_row).
        runs_folder: holds the folder of each run.
        folder: of the profile, where both files go.
    """
    plan = pd.read_csv(plan_file)
    summaries, metrics = [], []
    for run in plan["run"].unique():
        summary = json.loads((runs_folder / run / "summary.json").read_text())
        summaries.append(pd.json_normalize(summary).assign(run=run))
        metrics.append(pd.read_parquet(runs_folder / run / "metrics.parquet").assign(run=run))
    with atomic(folder / "runs.csv") as path:
        plan.merge(pd.concat(summaries), on="run", validate="many_to_one").to_csv(path, index=False)
    with atomic(folder / "metrics.parquet") as path:
        pd.concat(metrics, ignore_index=True).to_parquet(path, index=False)


def load_runs(folder: Path) -> pd.DataFrame:
    """Return one row a run, with the columns of the plan and of the summaries.

    A run that several experiments share appears once.
    """
    return pd.read_csv(folder / "runs.csv").drop_duplicates("run", ignore_index=True)


def load_metrics(folder: Path) -> pd.DataFrame:
    """Return one row a logged step: run, step, train_loss, val_loss, … (experiments.metrics)."""
    return pd.read_parquet(folder / "metrics.parquet")
