"""The tables: numbers as CSV, the same for readers as Markdown and LaTeX.

Each function of the modules beside it makes one kind of table of `analysis.catalogue` from the runs
it shows. It returns the numbers, one row a cell, and the table as it is read.
"""

from pathlib import Path

from analysis import text
from analysis.catalogue import Artefact
from analysis.frames import Results
from analysis.tables.cells import Table
from analysis.tables.cost import cost, time_to_target
from analysis.tables.final_losses import loss_by_lr, loss_by_optimizer, loss_by_value
from analysis.tables.planned import hyperparameters, layouts, state_memory_per_device
from analysis.text import MISSING
from experiments.files import atomic


def write_table(artefact: Artefact, results: Results, folder: Path) -> None:
    """Write a table as CSV, Markdown and LaTeX.

    Args:
        artefact: the table.
        results: of at least the runs it shows.
        folder: where its three files go.
    """
    numbers, shown = make_table(artefact, results)
    target = folder / artefact.name
    with atomic(target.with_suffix(".csv")) as path:
        numbers.to_csv(path, index=False)
    with atomic(target.with_suffix(".md")) as path:
        path.write_text(text.markdown(shown), encoding="utf-8")
    with atomic(target.with_suffix(".tex")) as path:
        path.write_text(text.latex(shown), encoding="utf-8")


def make_table(artefact: Artefact, results: Results) -> Table:
    """Return a table's numbers, and the table as it is read.

    Args:
        artefact: the table.
        results: of at least the runs it shows.
    """
    numbers, shown = _KINDS[artefact.kind](results.of(artefact))
    return numbers, shown.astype(object).where(shown.notna(), MISSING)


_KINDS = {
    "state_memory_per_device": state_memory_per_device,
    "hyperparameters": hyperparameters,
    "layouts": layouts,
    "loss_by_optimizer": loss_by_optimizer,
    "loss_by_value": loss_by_value,
    "loss_by_lr": loss_by_lr,
    "cost": cost,
    "time_to_target": time_to_target,
}
