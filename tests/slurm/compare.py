"""Compare two folders of runs: `python -m tests.slurm.compare FOLDER FOLDER`."""

import sys
from pathlib import Path

import pandas as pd

from tests.slurm.conftest import TIMES


def main(one: Path, other: Path) -> None:
    """Print how many runs are missing or differ; exit with 1 unless all metrics are identical."""
    names = sorted(path.parent.relative_to(one) for path in one.glob("*/*/*/metrics.parquet"))
    missing = [name for name in names if not (other / name / "metrics.parquet").exists()]
    differing = [
        name
        for name in names
        if name not in missing and not _metrics(one / name).equals(_metrics(other / name))
    ]
    print(f"{len(names)} runs: {len(missing)} missing, {len(differing)} differ", *differing)
    sys.exit(1 if missing or differing or not names else 0)


def _metrics(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "metrics.parquet").drop(columns=TIMES)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
