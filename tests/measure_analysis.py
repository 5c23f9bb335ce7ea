"""Measure the time that the analysis of 500 runs of 1000 points takes: `make bench-analysis`.

The runs are those of the profile `study` with more seeds; their losses are made up.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from analysis.__main__ import main
from experiments.plan.grid import plan
from experiments.plan.reading import load_profile
from tests.analysis import conftest


def write_runs(results: Path, number: int, points: int) -> Path:
    """Write `number` runs of `points` rows of metrics, and return the path of their plan."""
    conftest.STEPS = points
    rows = [run.row() for run in plan(load_profile("study"))]
    rows += [row | {"seed": row["seed"] + 3, "run": f"{row['run']}_again"} for row in rows]
    chosen = list(dict.fromkeys(row["run"] for row in rows))[:number]
    rows = [row for row in rows if row["run"] in chosen]
    rng = np.random.default_rng(0)
    conftest.STATE.update(dict.fromkeys({row["optimizer"] for row in rows}, 4.0))
    for row in {row["run"]: row for row in rows}.values():
        conftest.write_run(results, row, final=5 + 0.1 * rng.standard_normal())
    conftest.write_studies(results)
    path = conftest.write_plan(results, rows)
    path.with_suffix(".yaml").write_text("dataset: made up\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = write_runs(Path(folder) / "results", number=500, points=1000)
        started = time.perf_counter()
        main(["all", str(path)])
        seconds = time.perf_counter() - started
        figures = len(list(path.parents[1].glob("figures/*.pdf")))
        tables = len(list(path.parents[1].glob("tables/*.md")))
    sys.stdout.write(
        f"500 runs of 1000 points: {figures} figures, {tables} tables, claims and report in"
        f" {seconds:.1f} s\n"
    )
