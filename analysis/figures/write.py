"""The figures, each as PDF, PNG and the data it shows.

Each function of the modules beside it makes one kind of figure of `analysis.catalogue`, from the
runs it shows. It returns the figure and, as a long table, exactly what is drawn.
"""

from pathlib import Path

from matplotlib import pyplot as plt

from analysis.catalogue import Artefact
from analysis.figures import canvas
from analysis.figures.curves import loss_curves, loss_over_cost
from analysis.figures.final_losses import loss_over_lr, loss_over_state
from analysis.figures.studies import convergence, state_memory, transform
from analysis.frames import Results


def write_figure(artefact: Artefact, results: Results, folder: Path) -> None:
    """Draw a figure.

    Args:
        artefact: the figure.
        results: of at least the runs it shows.
        folder: where its three files go.
    """
    with plt.style.context(canvas.STYLE):
        figure, data = _KINDS[artefact.kind](results.of(artefact))
        canvas.write(figure, data, folder / artefact.name)


_KINDS = {
    "transform": transform,
    "loss_curves": loss_curves,
    "loss_over_lr": loss_over_lr,
    "loss_over_cost": loss_over_cost,
    "loss_over_state": loss_over_state,
    "state_memory": state_memory,
    "convergence": convergence,
}
