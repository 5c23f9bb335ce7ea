"""The tables: numbers as CSV, the same for readers as Markdown and LaTeX."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.frames import load_runs
from analysis.reference import load_reference
from analysis.statistics import Estimate, estimate
from experiments.files import atomic

MISSING = "–"


def write_tables(folder: Path) -> None:
    """Write every table of a profile to its folder `tables/`."""
    runs = load_runs(folder)
    for name, (numbers, shown) in {
        "val_loss": (val_loss_numbers(runs), val_loss_table(runs)),
        "state_memory": (state_memory_numbers(runs), state_memory_table(runs)),
    }.items():
        target = folder / "tables" / name
        with atomic(target.with_suffix(".csv")) as path:
            numbers.to_csv(path, index=False)
        with atomic(target.with_suffix(".md")) as path:
            path.write_text(shown.to_markdown(disable_numparse=True) + "\n", encoding="utf-8")
        with atomic(target.with_suffix(".tex")) as path:
            path.write_text(_latex(shown), encoding="utf-8")


def val_loss_numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the final validation loss of each model and optimizer over its seeds.

    A mean is given only where every seed completed: one that left the diverged seeds out would
    flatter the optimizer.

    Returns:
        Columns model, optimizer, label, lr, mean, ci95 (half width), n, diverged, paper.
    """
    published = load_reference()["val_loss"]
    rows = []
    keys = ["model", "optimizer", "label", "lr"]
    for key, group in runs.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        diverged = int((group["status"] == "diverged").sum())
        over_seeds = estimate(group["final_val_loss"]) if not diverged else None
        rows.append(
            row
            | {
                "mean": over_seeds.mean if over_seeds else None,
                "ci95": over_seeds.half_width if over_seeds else None,
                "n": len(group),
                "diverged": diverged,
                "paper": published.get(row["model"], {}).get(row["optimizer"]),
            }
        )
    return pd.DataFrame(rows)


def val_loss_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the final validation losses for readers: optimizers down, models across.

    The paper's value stands beside ours for each model that it trained. Where it trained none of
    them, its smallest model is shown.
    """
    published = load_reference()["val_loss"]
    columns = {
        f"{model}, ours": {row.label: _val_loss_cell(row) for row in of_model.itertuples()}
        for model, of_model in val_loss_numbers(runs).groupby("model", sort=False)
    }
    models = [model for model in runs["model"].unique() if model in published]
    names = runs.drop_duplicates("label").set_index("label")["optimizer"]
    for model in models or ["gpt2-small"]:
        columns[f"{model}, paper"] = {
            label: f"{published[model][name]:.3f}"
            for label, name in names.items()
            if name in published[model]
        }
    return _by_optimizer(columns, runs)


def state_memory_numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what each optimizer keeps between steps, measured on its state tensors.

    Returns:
        Columns model, optimizer, label, parameters, state_bytes, bytes_per_parameter, paper (bytes
        per parameter by the paper's counting).
    """
    published = load_reference()["state_bytes_per_parameter"]
    table = runs.drop_duplicates(["model", "optimizer"]).copy()
    table["bytes_per_parameter"] = table["state_bytes"] / table["parameters"]
    table["paper"] = table["optimizer"].map(published)
    columns = ["model", "optimizer", "label", "parameters", "state_bytes"]
    return table[[*columns, "bytes_per_parameter", "paper"]].reset_index(drop=True)


def state_memory_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the state memory for readers: bytes per parameter, and AdamW's over it."""
    numbers = state_memory_numbers(runs)
    columns = {}
    for model, of_model in numbers.groupby("model", sort=False):
        size = of_model.set_index("label")["bytes_per_parameter"]
        columns[f"{model}, bytes/param"] = size.map("{:.3f}".format).to_dict()
        adamw = of_model.loc[of_model["optimizer"] == "adamw", "bytes_per_parameter"]
        if len(adamw):
            columns[f"{model}, × less than AdamW"] = (
                (adamw.iloc[0] / size).map("{:.2f}".format).to_dict()
            )
    paper = numbers.drop_duplicates("label").set_index("label")["paper"].dropna()
    columns["paper, bytes/param"] = paper.map("{:.3f}".format).to_dict()
    return _by_optimizer(columns, runs)


def largest_model(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the model with the most parameters, in whose state no counter shows."""
    return numbers[numbers["parameters"] == numbers["parameters"].max()]


def _val_loss_cell(row: NamedTuple) -> str:
    """Show a row of `val_loss_numbers`."""
    if row.diverged:
        return f"diverged ({row.diverged} of {row.n})"
    return f"{Estimate(row.mean, row.ci95, row.n)} (n={row.n})"


def _by_optimizer(columns: dict[str, dict[str, str]], runs: pd.DataFrame) -> pd.DataFrame:
    """Arrange cells by label, in the order of the profile; say where there is nothing."""
    table = pd.DataFrame(columns, index=pd.Index(runs["label"].unique(), name="optimizer"))
    return table.astype(object).where(table.notna(), MISSING)


def _latex(table: pd.DataFrame) -> str:
    """Return a booktabs tabular."""
    text = table.reset_index().to_latex(index=False, escape=True)
    for character, command in {"±": r"$\pm$", "×": r"$\times$", MISSING: "--"}.items():
        text = text.replace(character, command)
    return text
