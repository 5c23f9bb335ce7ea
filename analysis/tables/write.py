"""Making a table of `analysis.catalogue`, and writing its files.

Each kind of table has a function in a module of this package. It takes the results that the table
shows, and returns a `Table`.
"""

from pathlib import Path

from analysis import text
from analysis.catalogue import Artefact
from analysis.frames import Results
from analysis.tables.cells import Table
from analysis.tables.cost import cost, loss_and_cost, time_to_target
from analysis.tables.effective_steps import effective_steps, rounding
from analysis.tables.final_losses import (
    loss_at_own_lr,
    loss_by_lr,
    loss_by_optimizer,
    loss_by_value,
)
from analysis.tables.ladder import ladder_table, trend_table
from analysis.tables.paper_gap import paper_gap
from analysis.tables.planned import hyperparameters, layouts, state_memory_per_device
from analysis.text import MISSING
from experiments.files import atomic


def write_table(artefact: Artefact, results: Results, folder: Path) -> None:
    """Write a table as CSV, Markdown and LaTeX.

    Args:
        artefact: the table.
        results: results of at least the runs it shows.
        folder: folder of the three files.
    """
    numbers, shown = make_table(artefact, results)
    with atomic(folder / f"{artefact.name}.csv") as path:
        numbers.to_csv(path, index=False)
    with atomic(folder / f"{artefact.name}.md") as path:
        path.write_text(text.markdown(shown), encoding="utf-8")
    with atomic(folder / f"{artefact.name}.tex") as path:
        path.write_text(text.latex(shown), encoding="utf-8")


def make_table(artefact: Artefact, results: Results) -> Table:
    """Return the numbers of a table, and its formatted text, in which no cell is empty.

    Args:
        artefact: the table.
        results: results of at least the runs it shows.
    """
    numbers, shown = _KINDS[artefact.kind](results.of(artefact.rows))
    return numbers, shown.astype(object).where(shown.notna(), MISSING)


_KINDS = {
    "ladder": ladder_table,
    "trend": trend_table,
    "state_memory_per_device": state_memory_per_device,
    "hyperparameters": hyperparameters,
    "layouts": layouts,
    "loss_by_optimizer": loss_by_optimizer,
    "loss_by_value": loss_by_value,
    "loss_by_lr": loss_by_lr,
    "loss_at_own_lr": loss_at_own_lr,
    "paper_gap": paper_gap,
    "effective_steps": effective_steps,
    "rounding": rounding,
    "cost": cost,
    "loss_and_cost": loss_and_cost,
    "time_to_target": time_to_target,
}
