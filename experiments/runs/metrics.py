"""The metrics of one run: a line of JSON for each row while it grows, parquet when it is done."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.files import append_line, atomic, read_lines

if TYPE_CHECKING:
    import pandas as pd

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
        path: the file of lines; the rows in it are kept, and lines that are damaged left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = [row for row in read_lines(path) if is_row(row)]

    def rewind(self, step: int) -> None:
        """Forget the rows after `step`, from where a run is resumed."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        with atomic(self._path) as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def append(self, row: dict[str, float]) -> None:
        """Add a row with keys of COLUMNS; missing ones become NaN."""
        self.rows.append(row)
        append_line(self._path, row)

    def frame(self) -> "pd.DataFrame":
        """Return all rows, in the columns and dtypes of COLUMNS."""
        import pandas as pd  # takes half a second, and `make status` does without

        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype(COLUMNS)


def is_row(value: dict[str, Any]) -> bool:
    """Tell whether a JSON object is a row of metrics; some columns may be missing."""
    return {"step", "tokens"} <= {*value} <= {*COLUMNS} and all(
        isinstance(number, int if COLUMNS[name] == "int64" else (int, float))
        for name, number in value.items()
    )
