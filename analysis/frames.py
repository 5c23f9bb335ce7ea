"""A plan and the results of its runs as data frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.rows import Row
from analysis.text import number
from experiments.files import FileError, atomic
from experiments.plan.spec import PlanRow
from experiments.plan.sweeps.following import needed_rows
from experiments.runs.folder import ResultsFolder
from experiments.runs.metrics import COLUMNS
from experiments.runs.summary import ENDED, Measurements

# Columns read as text, even where a name looks like a number or a missing value.
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
_PLAN = [*PlanRow.__annotations__]
_SUMMARY = ["run", *Measurements.__annotations__, "reason", "restored_from"]
_KEYS = ["experiment", "argument", "value", "run"]  # unique for each row of a plan


@dataclass(frozen=True)
class Results:
    """The results of a plan's runs, or of some of them.

    Args:
        folder: `results/`, which holds `runs/` and the CSV files of the studies.
        runs: one row for each planned run, with the columns of the plan
            (experiments.plan.spec.PlannedRun.row) and of its summary.json. `status` is completed,
            diverged, failed or timeout. It is `missing` for a run that has not ended; the columns
            of the summary are NaN then.
        metrics: one row for each logged step of each run that completed or diverged, with the
            columns `run` and those of experiments.runs.metrics (step, train_loss, val_loss, …).
    """

    folder: Path
    runs: pd.DataFrame
    metrics: pd.DataFrame

    def of(self, rows: Iterable[Row]) -> "Results":
        """Return the results of the runs that a figure or a table shows, in its order."""
        keys = pd.DataFrame(rows, columns=_KEYS)
        # A run that might have followed, but was not needed, is not among the runs.
        runs = keys.merge(self.runs, on=_KEYS, how="inner", validate="one_to_one")
        return Results(self.folder, runs, self.metrics[self.metrics["run"].isin(runs["run"])])


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file that a rule of the Snakefile wrote.

    Names are read as text, also 007, 1e3 or NA. In the other columns an empty cell is NaN.

    Raises:
        FileError: the file is missing or damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    try:
        if content.endswith(b"\n") and b"\0" not in content:  # the end is not cut off
            columns = pd.read_csv(BytesIO(content), nrows=0).columns
            return pd.read_csv(
                BytesIO(content),
                dtype=dict.fromkeys(_NAMES, str),
                keep_default_na=False,
                na_values={name: [""] for name in columns if name not in _NAMES},
            )
    except ValueError:  # base class of pandas' parser errors and of UnicodeDecodeError
        pass
    problem = "is damaged: delete it, and" if path.exists() else "is missing:"
    raise FileError(f"{path} {problem} the same command makes it again")


def read_plan(path: Path) -> list[Row]:
    """Return the rows of a plan (PlannedRun.row)."""
    return read_table(path).to_dict("records")


def read_results(rows: Iterable[Row], folder: Path) -> Results:
    """Read the results of planned runs, without those that might have followed.

    Args:
        rows: rows of the plan.
        folder: `results/`.

    Raises:
        FileError: the metrics of a run are damaged.
    """
    finals = ResultsFolder(folder)
    needed = needed_rows([*rows], lambda run: finals.run(run).final_loss)
    plan = _with_columns(pd.DataFrame(needed), _PLAN)
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
    """Write all runs of a profile to `runs.csv`, and all their metrics to `metrics.parquet`."""
    with atomic(folder / "runs.csv") as path:
        results.runs.to_csv(path, index=False)
    with atomic(folder / "metrics.parquet") as path:
        results.metrics.to_parquet(path, index=False)


def read_collected(path: Path, folder: Path) -> Results:
    """Read the runs that `write_collected` wrote, without metrics of single steps.

    Args:
        path: runs.csv.
        folder: `results/`.
    """
    runs = _with_columns(read_table(path), [*dict.fromkeys([*_PLAN, *_SUMMARY])])
    return Results(folder, runs, pd.DataFrame(columns=["run", *COLUMNS]))


def origin_of(runs: pd.DataFrame) -> pd.Series:
    """Return where each run was trained: "here", or "elsewhere" for a restored one."""
    return runs["restored_from"].isna().map({True: "here", False: "elsewhere"})


def trained_together(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose times compare: those trained here, or all if all were restored."""
    here = runs[(origin_of(runs) == "here") & runs["status"].isin(ENDED)]
    return runs if here.empty else here


def origins(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the code, package versions, machine and corpus of runs, one row each.

    Where the runs differ, a row lists all values.
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
    """Return the summary of a run without its log, nested keys joined by dots.

    It is empty if there is no summary, or if the run has ended and a file of its result is damaged.
    """
    run = ResultsFolder(folder).run(name)
    summary = run.summary
    if not summary or (summary["status"] in ENDED and not run.is_done):
        return {}
    summary.pop("log", None)
    return pd.json_normalize(summary).iloc[0].to_dict() | {"run": name}


def _metrics(folder: Path, name: str) -> pd.DataFrame:
    """Read the metrics of a run that has ended."""
    path = ResultsFolder(folder).run(name).metrics_file
    try:
        return pd.read_parquet(path).assign(run=name)
    except (OSError, ValueError) as error:  # base classes of pyarrow's errors
        raise FileError(
            f"{path} is damaged: delete it, and training/metrics.parquet beside it if that is"
            " damaged as well; the same command makes them again"
        ) from error


def _with_columns(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return a frame in which each of `columns` exists, NaN where there is no value."""
    if frame.empty:  # dtype object, because columns of numbers do not merge with names
        return pd.DataFrame(columns=columns, dtype=object)
    return frame.reindex(columns=[*columns, *(name for name in frame if name not in columns)])
