"""The metrics of a run: lines of JSON while it trains, a parquet file at its end."""

import json
import math
from pathlib import Path
from typing import Any

from experiments.files import FileError, append_line, atomic, read_lines

METRICS_FILE = "metrics.parquet"
Row = dict[str, float]  # the metrics of a logged step, by the names of COLUMNS

COLUMNS = {
    "step": "int64",  # optimizer steps taken
    "tokens": "int64",  # tokens trained on so far
    "train_loss": "float64",  # loss on this step's batch, nats per token
    "val_loss": "float64",  # on the validation windows, nats per token; NaN if not validated
    "final_val_loss": "float64",  # on the whole validation stream; only in the last row, else NaN
    "final_val_error": "float64",  # its standard error over blocks of windows
    "lr": "float64",  # learning rate of this step
    "grad_norm": "float64",  # global l2 norm of the gradient before clipping
    "update_rms": "float64",  # root mean square of the change of all parameters
    "step_seconds": "float64",  # forward, backward, clipping and update
    "optimizer_seconds": "float64",  # the update alone
}


class MetricsLog:
    """Rows of metrics, each on disk as soon as it is known.

    Args:
        path: the file of lines. Its rows are kept, and damaged lines are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[Row] = [row for row in read_lines(path) if is_row(row)]

    def rewind(self, step: int) -> None:
        """Remove the rows after `step`, from which a run is resumed."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        with atomic(self._path) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def append(self, row: Row) -> None:
        """Add a row with keys of COLUMNS."""
        self.rows.append(row)
        append_line(self._path, row)


def write_parquet(path: Path, rows: list[Row]) -> None:
    """Write rows in the columns and dtypes of COLUMNS; a missing number becomes NaN.

    Raises:
        FileError: the file cannot be written.
    """
    import pyarrow as pa  # half a second that `make status` does without
    from pyarrow import parquet

    columns = {
        name: pa.array([row.get(name, math.nan) for row in rows], dtype)
        for name, dtype in COLUMNS.items()
    }
    with atomic(path) as temporary:
        parquet.write_table(pa.table(columns), temporary)


def read_parquet(path: Path) -> list[Row]:
    """Return the rows that `write_parquet` wrote; a missing number is NaN.

    Raises:
        FileError: the file is missing or damaged.
    """
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # base classes of pyarrow's errors
        raise FileError(f"{path} cannot be read: {error}") from error


def is_row(value: dict[str, Any]) -> bool:
    """Return whether a JSON object is a row of metrics; some columns may be missing."""
    return {"step", "tokens"} <= {*value} <= {*COLUMNS} and all(
        isinstance(number, int if COLUMNS[name] == "int64" else (int, float))
        for name, number in value.items()
    )
