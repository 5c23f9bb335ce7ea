"""Tables of final losses: by optimizer, by value of an argument, and by learning rate."""

import pandas as pd

from analysis.estimates.losses import (
    best_lr,
    final_losses,
    is_sweep,
    protocols,
    show,
    show_lr,
    show_own,
)
from analysis.frames import Results
from analysis.papers.numbers import load_paper
from analysis.tables.cells import Table, cell_texts, labelled, row_names
from analysis.text import number


def loss_by_optimizer(results: Results) -> Table:
    """Return final losses under both protocols, with a row for each optimizer.

    The columns are the models, and the paper's values for those that it trained. If it trained none
    of them, they are its values for its large models (in the experiment `large_scale`) or for its
    smallest model (in any other).
    """
    runs = results.runs
    planned = final_losses(runs[~is_sweep(runs)])
    best = best_lr(runs[is_sweep(runs)])
    numbers = pd.concat(
        [planned.assign(protocol=protocols(planned)), best.assign(protocol="own best lr")]
    )
    paper = load_paper()
    published = paper["val_loss"]
    numbers["paper"] = [
        published.get(row.model, {}).get(row.optimizer) for row in numbers.itertuples()
    ]
    names = planned.assign(row=row_names(planned)).drop_duplicates("row").set_index("row")
    columns = {}
    for model, of_model in planned.groupby("model", sort=False):
        for lr, at_lr in of_model.groupby("lr", sort=False):
            columns[f"{model}, lr {number(lr)}"] = dict(
                zip(row_names(at_lr), cell_texts(at_lr), strict=True)
            )
        own = best[(best["model"] == model) & best["label"].isin(names.index)]
        if len(own):
            columns[f"{model}, own lr"] = {row["label"]: show_own(row) for _, row in own.iterrows()}
        errors = of_model.assign(row=row_names(of_model)).groupby("row")["window_error"].max()
        columns[f"{model}, windows ±"] = errors.dropna().map("{:.3f}".format).to_dict()
    models = [model for model in planned["model"].unique() if model in published]
    if not models and "large_scale" in set(runs["experiment"]):
        models = list(paper["state_mib_per_device"])
    for model in models or ["gpt2-small"]:
        columns[f"{model}, paper"] = {
            row.label: f"{published[model][row.optimizer]:.3f}"
            for row in names.itertuples()
            if row.optimizer in published[model]
        }
    return numbers, labelled(columns, list(names.index))


def loss_by_value(results: Results) -> Table:
    """Return final losses, with a row for each value of a varied argument, a column per model."""
    numbers = final_losses(results.runs)
    rows = row_names(
        numbers,
        with_label=numbers["optimizer"].nunique() > 1 or not numbers["argument"].all(),
        with_lr=numbers.groupby("model")["lr"].nunique().max() > 1,
    )
    columns = {
        model: dict(zip(of_model["row"], of_model["cell"], strict=True))
        for model, of_model in numbers.assign(row=rows, cell=cell_texts(numbers)).groupby(
            "model", sort=False
        )
    }
    return numbers, labelled(columns, list(dict.fromkeys(rows)), "value")


def loss_by_lr(results: Results) -> Table:
    """Return final losses and best learning rates: a row per optimizer, a column per rate."""
    numbers, best = final_losses(results.runs), best_lr(results.runs)
    several = numbers["model"].nunique() > 1
    columns = {}
    for (model, lr), cells in numbers.groupby(["model", "lr"], sort=False):
        name = f"{model}, {number(lr)}" if several else f"lr {number(lr)}"
        columns[name] = dict(zip(row_names(cells), cell_texts(cells), strict=True))
    for model, of_model in best.groupby("model", sort=False):
        columns[f"{model}, best" if several else "best lr"] = dict(
            zip(row_names(of_model), (show_lr(row) for _, row in of_model.iterrows()), strict=True)
        )
    return numbers, labelled(columns, list(dict.fromkeys(row_names(numbers))))


def loss_at_own_lr(results: Results) -> Table:
    """Return the best rate of each sweep and its loss: a row per optimizer and varied value."""
    best = best_lr(results.runs)
    shown = pd.DataFrame(
        {
            "model": best["model"],
            "loss at the best lr": [show(row) for _, row in best.iterrows()],
            "best lr": [show_lr(row) for _, row in best.iterrows()],
            "fitted loss": best["fitted_loss"].map("{:.3f}".format, na_action="ignore"),
            "fitted lr": best["fitted_lr"].map("{:.2g}".format, na_action="ignore"),
        }
    )
    return best, shown.set_index(pd.Index(row_names(best), name="optimizer"))
