"""The files of a plan: its rows as CSV, and the settings behind them as YAML."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.files import atomic
from experiments.plan.spec import PlanRow


def write_plan(rows: Sequence[PlanRow], path: Path) -> None:
    """Write the rows of a plan.

    Raises:
        FileError: the file cannot be written.
    """
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*PlanRow.__annotations__])
        writer.writeheader()
        writer.writerows(rows)


def read_rates(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a plan; only the columns lr and extension are numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            row | {"lr": float(row["lr"]), "extension": int(row["extension"])}
            for row in csv.DictReader(file)
        ]


def write_settings(profile: str, settings: str, path: Path) -> None:
    """Write the settings behind a plan as YAML, with the command that plans them again.

    Raises:
        FileError: the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(
            f"# snakemake --config profile={profile}\n{settings}", encoding="utf-8"
        )
