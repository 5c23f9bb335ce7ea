"""Drawing a figure of `analysis.catalogue`, and writing its files.

Each kind of figure has a function in a module of this package. It takes the results that the
figure shows, and returns the figure and a long table of exactly the numbers it shows.
"""

from pathlib import Path

from matplotlib import pyplot as plt

from analysis.catalogue import Artefact
from analysis.figures import canvas
from analysis.figures.curves import loss_curves, loss_over_cost
from analysis.figures.effective_steps import (
    displacements,
    effective_joint,
    effective_steps,
    effective_tails,
    rounding,
)
from analysis.figures.final_losses import loss_over_lr, loss_over_state
from analysis.figures.ladder import ladder_figure
from analysis.figures.paper_gap import paper_gap
from analysis.figures.studies import convergence, state_memory, transform
from analysis.frames import Results


def write_figure(artefact: Artefact, results: Results, folder: Path) -> None:
    """Draw a figure and write it as PDF, PNG and CSV.

    Args:
        artefact: the figure.
        results: results of at least the runs it shows.
        folder: folder of the three files.
    """
    with plt.style.context(canvas.STYLE):
        figure, data = _KINDS[artefact.kind](results.of(artefact.rows))
        canvas.write(figure, data, folder / artefact.name)


_KINDS = {
    "ladder": ladder_figure,
    "transform": transform,
    "loss_curves": loss_curves,
    "loss_over_lr": loss_over_lr,
    "loss_over_cost": loss_over_cost,
    "loss_over_state": loss_over_state,
    "paper_gap": paper_gap,
    "effective_steps": effective_steps,
    "effective_tails": effective_tails,
    "effective_joint": effective_joint,
    "displacements": displacements,
    "rounding": rounding,
    "state_memory": state_memory,
    "convergence": convergence,
}
