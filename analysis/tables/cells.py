"""Code that all tables share: names of rows, text of cells, and their arrangement."""

import pandas as pd

from analysis.estimates.losses import show
from analysis.text import number

# The numbers, one row for each cell, and the formatted table that shows them.
Table = tuple[pd.DataFrame, pd.DataFrame]


def row_names(numbers: pd.DataFrame, with_label: bool = True, with_lr: bool = False) -> list[str]:
    """Return the row name of each cell: its optimizer, varied argument and learning rate."""
    names = []
    for row in numbers.itertuples():
        parts = [row.label] if with_label else []
        parts += [f"{row.argument} = {row.value}"] if row.argument else []
        parts += [f"lr {number(row.lr)}"] if with_lr else []
        names.append(", ".join(parts))
    return names


def cell_texts(numbers: pd.DataFrame) -> list[str]:
    """Return the rows of `losses.final_losses` as text."""
    return [show(row) for _, row in numbers.iterrows()]


def labelled(
    columns: dict[str, dict[str, str]], labels: list[str], name: str = "optimizer"
) -> pd.DataFrame:
    """Return a table of the columns' cells, with one row for each label, in the labels' order."""
    return pd.DataFrame(columns, index=pd.Index(labels, name=name))
