"""A plan, and what its runs left behind, as data frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.catalogue import Artefact, Row
from analysis.text import number
from experiments.files import FileError, atomic
from experiments.runs.folder import RunFolder
from experiments.runs.metrics import COLUMNS

# Columns that hold names: text, whatever it looks like.
_NAMES = [
    "experiment",
    "model",
    "optimizer",
    "label",
    "argument",
    "value",
    "dataset",
    "run",
    "family",
]
_PLAN = [
    "experiment",
    "model",
    "optimizer",
    "label",
    "lr",
    "shared_lr",
    "argument",
    "value",
    "seed",
    "dataset",
    "planned_steps",
    "batch_size",
    "context",
    "warmup_steps",
    "min_lr_ratio",
    "weight_decay",
    "grad_clip_norm",
    "run",
]
_SUMMARY = [
    "run",
    "status",
    "steps",
    "tokens",
    "final_val_loss",
    "best_val_loss",
    "parameters",
    "state_bytes",
    "peak_memory_bytes",
    "tokens_per_second",
    "optimizer_seconds",
    "reason",
]
ENDED = ("completed", "diverged")  # the status of a run that has a result
_KEYS = ["experiment", "argument", "value", "run"]  # tell the rows of a plan apart


@dataclass(frozen=True)
class Results:
    """The runs of a plan, or of a part of it.

    Args:
        folder: `results/`, which holds `runs/` and the studies.
        runs: one row a planned run: its columns in the plan (PlannedRun.row), and
            those of its summary.json. `status` is completed, diverged, failed, timeout, or missing
            where a run has not ended; the summary's columns are NaN there.
        metrics: one row a logged step of each run that completed or diverged: `run`, step,
            train_loss, val_loss, … (experiments.runs.metrics).
    """

    folder: Path
    runs: pd.DataFrame
    metrics: pd.DataFrame

    def of(self, artefact: Artefact) -> "Results":
        """Return what a figure or a table shows, in its order."""
        keys = pd.DataFrame(artefact.rows, columns=_KEYS)
        runs = keys.merge(self.runs, on=_KEYS, how="left", validate="one_to_one")
        return Results(self.folder, runs, self.metrics[self.metrics["run"].isin(runs["run"])])


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV that a rule wrote.

    A name such as 007, 1e3 or NA stays what it is; in other columns an empty cell is NaN.

    Raises:
        FileError: it is missing or damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    try:
        if content.endswith(b"\n") and b"\0" not in content:  # nothing is cut off at its end
            columns = pd.read_csv(BytesIO(content), nrows=0).columns
            return pd.read_csv(
                BytesIO(content),
                dtype=dict.fromkeys(_NAMES, str),
                keep_default_na=False,
                na_values={name: [""] for name in columns if name not in _NAMES},
            )
    except ValueError:  # pandas' own errors and that of UTF-8 are such
        pass
    what = "is damaged: delete it, and" if path.exists() else "is missing:"
    raise FileError(f"{path} {what} the same command makes it again")


def read_plan(path: Path) -> list[Row]:
    """Return the rows of a plan (PlannedRun.row)."""
    return read_table(path).to_dict("records")


def read_results(rows: Iterable[Row], folder: Path) -> Results:
    """Read what planned runs left behind.

    Args:
        rows: of the plan.
        folder: `results/`.

    Raises:
        FileError: metrics are damaged.
    """
    plan = _with_columns(pd.DataFrame(rows), _PLAN)
    found = [_summary(folder, name) for name in plan["run"].unique()]
    summaries = _with_columns(pd.DataFrame([each for each in found if each]), _SUMMARY)
    runs = plan.merge(summaries, on="run", how="left", validate="many_to_one")
    runs["status"] = runs["status"].astype("str").fillna("missing")
    metrics = [
        _metrics(folder, name) for name in runs.loc[runs["status"].isin(ENDED), "run"].unique()
    ]
    empty = pd.DataFrame(columns=["run", *COLUMNS])
    return Results(folder, runs, pd.concat(metrics, ignore_index=True) if metrics else empty)


def write_collected(results: Results, folder: Path) -> None:
    """Write `runs.csv` and `metrics.parquet` of a profile: everything measured, in two files."""
    with atomic(folder / "runs.csv") as path:
        results.runs.to_csv(path, index=False)
    with atomic(folder / "metrics.parquet") as path:
        results.metrics.to_parquet(path, index=False)


def origins(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what runs came from, one row a fact: code, versions, machine and corpus.

    Several values where they differ.
    """
    columns = [name for name in runs if name.startswith(("provenance.", "corpus."))]
    values = {
        name.removeprefix("provenance.").removeprefix("packages."): ", ".join(
            number(value) if isinstance(value, float) else str(value)
            for value in runs[name].dropna().unique()
        )
        for name in columns
    }
    return pd.DataFrame({"value": values}).rename_axis("trained with")


def _summary(folder: Path, name: str) -> dict[str, Any]:
    """Return a run's summary but for its log, inner keys joined by dots.

    It is empty where the run has none, or has a result that is not whole.
    """
    run = RunFolder(folder / "runs" / name)
    summary = run.summary
    if not summary or (summary["status"] in ENDED and not run.is_done):
        return {}
    summary.pop("log", None)
    return pd.json_normalize(summary).iloc[0].to_dict() | {"run": name}


def _metrics(folder: Path, name: str) -> pd.DataFrame:
    """Return the metrics of a run that has ended."""
    path = folder / "runs" / name / "metrics.parquet"
    try:
        return pd.read_parquet(path).assign(run=name)
    except (OSError, ValueError) as error:  # pyarrow's own errors are such
        raise FileError(
            f"{path} is damaged: delete it, and training/metrics.parquet beside it if that is"
            " damaged as well; the same command makes them again"
        ) from error


def _with_columns(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return a frame that has `columns` whatever there was to fill them."""
    if frame.empty:  # its columns would be numbers, which merge with no names
        return pd.DataFrame(columns=columns, dtype=object)
    return frame.reindex(columns=[*columns, *(name for name in frame if name not in columns)])
