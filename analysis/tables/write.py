"""The tables: numbers as CSV, the same for readers as Markdown and LaTeX.

Each function here makes one kind of table of `analysis.catalogue` from the runs it shows. It
returns the numbers, one row a cell, and the table as it is read.
"""

from pathlib import Path

import pandas as pd

from analysis import text
from analysis.catalogue import Artefact
from analysis.frames import ENDED, Results
from analysis.losses import best_lr, final_losses, show
from analysis.paper import load_paper
from analysis.tables import planned
from analysis.tables.cost import steps_to_target
from analysis.text import MISSING, number
from experiments.files import atomic

Table = tuple[pd.DataFrame, pd.DataFrame]


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


def losses(results: Results) -> Table:
    """Return final losses under both protocols, optimizers down, models across.

    The paper's values stand beside ours for each model that it trained. Where it trained none of
    them, those of its own models stand there: of the large ones for `large_scale`, and otherwise of
    the smallest.
    """
    runs = results.runs
    shared = final_losses(runs[runs["experiment"] != "learning_rate"])
    best = best_lr(runs)
    numbers = pd.concat([shared.assign(protocol="shared lr"), best.assign(protocol="own best lr")])
    reference = load_paper()
    published = reference["val_loss"]
    numbers["paper"] = [
        published.get(row.model, {}).get(row.optimizer) for row in numbers.itertuples()
    ]
    names = shared.assign(row=_row_names(shared)).drop_duplicates("row").set_index("row")
    columns = {}
    for model, of_model in shared.groupby("model", sort=False):
        for lr, at_lr in of_model.groupby("lr", sort=False):
            columns[f"{model}, lr {number(lr)}"] = dict(
                zip(_row_names(at_lr), _cells(at_lr), strict=True)
            )
        own = best[(best["model"] == model) & best["label"].isin(names.index)]
        if len(own):
            columns[f"{model}, own lr"] = {
                row["label"]: f"{show(row)} [{show_lr(row)}]" for _, row in own.iterrows()
            }
    models = [model for model in shared["model"].unique() if model in published]
    if not models and "large_scale" in set(runs["experiment"]):
        models = list(reference["state_mib_per_device"])
    for model in models or ["gpt2-small"]:
        columns[f"{model}, paper"] = {
            row.label: f"{published[model][row.optimizer]:.3f}"
            for row in names.itertuples()
            if row.optimizer in published[model]
        }
    return numbers, _labelled(columns, list(names.index))


def loss_by_value(results: Results) -> Table:
    """Return final losses by the value of the varied argument, models across."""
    numbers = final_losses(results.runs)
    rows = _row_names(
        numbers,
        with_label=numbers["optimizer"].nunique() > 1 or not numbers["argument"].all(),
        with_lr=numbers.groupby("model")["lr"].nunique().max() > 1,
    )
    columns = {
        model: dict(zip(of_model["row"], of_model["cell"], strict=True))
        for model, of_model in numbers.assign(row=rows, cell=_cells(numbers)).groupby(
            "model", sort=False
        )
    }
    return numbers, _labelled(columns, list(dict.fromkeys(rows)), "value")


def loss_by_lr(results: Results) -> Table:
    """Return final losses by learning rate, optimizers down, and each one's best rate."""
    numbers, best = final_losses(results.runs), best_lr(results.runs)
    several = numbers["model"].nunique() > 1
    columns = {}
    for (model, lr), cells in numbers.groupby(["model", "lr"], sort=False):
        name = f"{model}, {number(lr)}" if several else f"lr {number(lr)}"
        columns[name] = dict(zip(_row_names(cells), _cells(cells), strict=True))
    for model, of_model in best.groupby("model", sort=False):
        columns[f"{model}, best" if several else "best lr"] = dict(
            zip(_row_names(of_model), (show_lr(row) for _, row in of_model.iterrows()), strict=True)
        )
    return numbers, _labelled(columns, list(dict.fromkeys(_row_names(numbers))))


def cost(results: Results) -> Table:
    """Return what a step costs, and the state's bytes per parameter, measured in the runs.

    Times are medians over a run's steps, then means over seeds; several runs share the machine.
    """
    runs = results.runs[results.runs["experiment"] != "learning_rate"]
    rows = []
    for (model, optimizer, label), cell in runs.groupby(
        ["model", "optimizer", "label"], sort=False
    ):
        ended = cell[cell["status"].isin(ENDED)]
        rows.append(
            {
                "model": model,
                "optimizer": optimizer,
                "label": label,
                "n": len(ended),
                "state_bytes_per_parameter": (ended["state_bytes"] / ended["parameters"]).mean(),
                "tokens_per_second": ended["tokens_per_second"].mean(),
                "optimizer_seconds": ended["optimizer_seconds"].mean(),
                "peak_memory_bytes": ended["peak_memory_bytes"].mean(),
            }
        )
    numbers = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "state (bytes/param)": numbers["state_bytes_per_parameter"].map("{:.3f}".format),
            "tokens/s": numbers["tokens_per_second"].map("{:,.0f}".format),
            "optimizer step (ms)": (numbers["optimizer_seconds"] * 1e3).map("{:.1f}".format),
            "peak memory (MiB)": (numbers["peak_memory_bytes"] / 2**20).map("{:,.0f}".format),
            "n": numbers["n"],
        }
    ).where(numbers["n"] > 0, MISSING)
    shown.insert(0, "model", numbers["model"])
    return numbers, shown.set_index(pd.Index(numbers["label"], name="optimizer"))


def time_to_target(results: Results) -> Table:
    """Return the steps and tokens to AdamW's final loss of the same seed, under both protocols."""
    numbers = steps_to_target(results)
    columns = {}
    for (model, protocol), cells in numbers.groupby(["model", "protocol"], sort=False):
        for what in ("steps", "tokens"):
            shown = [_show_target(row, what) for _, row in cells.iterrows()]
            columns[f"{model}, {protocol}: {what}"] = dict(
                zip(_row_names(cells), shown, strict=True)
            )
    return numbers, _labelled(columns, list(dict.fromkeys(_row_names(numbers))))


def show_lr(row: pd.Series) -> str:
    """Return a row of `best_lr` as its learning rate, flagged where it is the edge of the sweep."""
    return number(row["lr"]) + (", edge" if row["edge"] else "")


def _show_target(row: pd.Series, what: str) -> str:
    if row["n"] == 0:
        return MISSING
    if row["censored"]:
        return f"> {row[f'last_{what}']:,.0f} in {row['censored']} of {row['n']}"
    return f"{row[what]:,.0f} (n={row['n']})"


def _row_names(numbers: pd.DataFrame, with_label: bool = True, with_lr: bool = False) -> list[str]:
    """Name each cell by its optimizer, the argument that is varied, and the learning rate."""
    names = []
    for row in numbers.itertuples():
        parts = [row.label] if with_label else []
        parts += [f"{row.argument} = {row.value}"] if row.argument else []
        parts += [f"lr {number(row.lr)}"] if with_lr else []
        names.append(", ".join(parts))
    return names


def _cells(numbers: pd.DataFrame) -> list[str]:
    return [show(row) for _, row in numbers.iterrows()]


def _labelled(
    columns: dict[str, dict[str, str]], labels: list[str], name: str = "optimizer"
) -> pd.DataFrame:
    """Arrange cells by label, in the order of the profile."""
    return pd.DataFrame(columns, index=pd.Index(labels, name=name))


_KINDS = {
    "state_memory_per_device": planned.state_memory_per_device,
    "hyperparameters": planned.hyperparameters,
    "layouts": planned.layouts,
    "losses": losses,
    "loss_by_value": loss_by_value,
    "loss_by_lr": loss_by_lr,
    "cost": cost,
    "time_to_target": time_to_target,
}
