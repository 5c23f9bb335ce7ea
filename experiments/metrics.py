"""The metrics of one run: a line of JSON for each row while it grows, parquet when it is done."""

import json
import os
from pathlib import Path

import pandas as pd

from experiments.files import atomic

COLUMNS = {
    "step": "int64",  # optimizer steps taken
    "tokens": "int64",  # trained on so far
    "train_loss": "float64",  # of this step's batch, nats per token
    "val_loss": "float64",  # of the fixed windows after this step, nats per token; NaN elsewhere
    "lr": "float64",  # of this step
    "grad_norm": "float64",  # global l2 norm before clipping
    "update_rms": "float64",  # root mean square of the change of all parameters
    "step_seconds": "float64",  # forward, backward, clipping and update
    "optimizer_seconds": "float64",  # the update alone
}


class MetricsLog:
    """Rows of metrics, each on disk as soon as it is known.

    Args:
        path: the file of lines; rows that stand there already are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            # A process that was killed may have left half a line at the end.
            self.rows = [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, step: int) -> None:
        """Forget the rows after `step`, from where a run is resumed."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        with atomic(self._path) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def append(self, row: dict[str, float]) -> None:
        """Add a row with keys of COLUMNS; missing ones become NaN."""
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def frame(self) -> pd.DataFrame:
        """Return all rows, in the columns and dtypes of COLUMNS."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)
