"""The format of a bundle: one finished run as a JSON file, with a digest of its content."""

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiments.files import FileError, atomic, read_object
from experiments.plan.spec import RunSpec
from experiments.runs.effective_steps import FILES
from experiments.runs.folder import RunFolder
from experiments.runs.metrics import COLUMNS, Row, is_row, read_parquet, write_parquet
from experiments.runs.summary import ENDED, Summary, write_summary

FORMAT = 1  # version of the format; readers refuse others
SUFFIX = ".json"
_DIGITS = 6  # significant digits of the metrics
_KEYS = {"format", "spec", "summary", "metrics", "files", "sha256"}


@dataclass(frozen=True)
class Bundle:
    """A finished run: its spec, its summary, the metrics of its validated steps, and its files.

    Args:
        spec: everything that the result depends on, as plain values.
        path: RunSpec.path of the spec.
        summary: the content of summary.json.
        metrics: the rows of metrics.parquet that have a validation loss, and the last one, to six
            digits.
        files: the files of experiments.runs.effective_steps, by name; often none.
    """

    spec: dict[str, Any]
    path: str
    summary: Summary
    metrics: list[Row]
    files: dict[str, bytes]

    def write(self, path: Path) -> None:
        """Write the bundle.

        Raises:
            FileError: the file cannot be written.
        """
        content = {
            "format": FORMAT,
            "spec": self.spec,
            "summary": self.summary,
            "metrics": self.metrics,
            "files": {
                name: base64.b64encode(binary).decode() for name, binary in self.files.items()
            },
        }
        lines = [
            f"{json.dumps(key)}: {_in_lines(value)}"
            for key, value in (content | {"sha256": _sha256(content)}).items()
        ]
        with atomic(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    def restore(self, run: RunFolder, origin: str) -> None:
        """Write the result to the folder of its run, as training would have.

        Args:
            run: the folder.
            origin: where the bundle comes from; the summary says so under `restored_from`.

        Raises:
            FileError: a file cannot be written.
        """
        for name, content in self.files.items():
            with atomic(run.path / name) as path:
                path.write_bytes(content)
        write_parquet(run.metrics_file, self.metrics)
        write_summary(run.path, self.summary | {"restored_from": origin})


def bundle_of(spec: RunSpec, run: RunFolder) -> Bundle:
    """Return the bundle of a run that is done.

    Raises:
        FileError: its metrics are damaged.
    """
    rows = read_parquet(run.metrics_file)
    files = {name: run.path / name for name in FILES}
    return Bundle(
        spec.model_dump(mode="json", by_alias=True),
        spec.path,
        run.summary,
        [_rounded(row) for row in rows if not math.isnan(row["val_loss"]) or row is rows[-1]],
        {name: path.read_bytes() for name, path in files.items() if path.exists()},
    )


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, and verify it against its digest and against its spec.

    Raises:
        FileError: the file is no bundle of this format, its content does not have its digest, or
            its spec is not one of the run that the file is named after.
    """
    content = read_object(path)
    if content is None:
        raise FileError(f"{path} is damaged: it must be a bundle, as `make bundles` writes it")
    if content.get("format") != FORMAT:
        raise FileError(
            f"{path} has the format {content.get('format')!r}, but this version reads {FORMAT} only"
        )
    digest = content.pop("sha256", None)
    if digest != _sha256(content):
        raise FileError(f"{path} was altered: its content must have the sha256 {digest}")
    if {*content, "sha256"} != _KEYS or content["summary"].get("status") not in ENDED:
        raise FileError(f"{path} must hold {', '.join(sorted(_KEYS))} of a run that has ended")
    try:
        spec = RunSpec.model_validate_json(json.dumps(content["spec"]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FileError(
            f"{path} is a run of another version of the code: {where}: {first['msg']}"
        ) from error
    if Path(spec.path).parts != path.with_suffix("").parts[-3:]:
        raise FileError(f"{path} holds another run than its name says, {spec.path}")
    files = _decoded(content["files"])
    if files is None or not all(map(is_row, content["metrics"])):
        raise FileError(
            f"{path} must hold rows of {', '.join(COLUMNS)}, and of files only {', '.join(FILES)}"
        )
    return Bundle(content["spec"], spec.path, content["summary"], content["metrics"], files)


def _decoded(files: Any) -> dict[str, bytes] | None:
    """Return the files of a bundle by name; None if they are not base64, or have other names."""
    if not isinstance(files, dict) or not {*files} <= {*FILES}:
        return None
    try:
        return {name: base64.b64decode(text, validate=True) for name, text in files.items()}
    except (binascii.Error, TypeError):
        return None


def _rounded(row: Row) -> Row:
    """Return a row to six digits, without the columns that have no value."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
        for name, value in row.items()
        if math.isfinite(value)
    }


def _in_lines(value: Any) -> str:
    """Return a value as JSON, each item of a list on a line of its own."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def _sha256(content: dict[str, Any]) -> str:
    """Return the sha256 of a JSON object, whatever the order of its keys and its layout."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
