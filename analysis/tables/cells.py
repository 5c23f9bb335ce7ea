"""What all tables share: names of rows, cells, and their arrangement."""

import pandas as pd

from analysis.losses import show
from analysis.text import number

Table = tuple[pd.DataFrame, pd.DataFrame]


def row_names(numbers: pd.DataFrame, with_label: bool = True, with_lr: bool = False) -> list[str]:
    """Name each cell by its optimizer, the argument that is varied, and the learning rate."""
    names = []
    for row in numbers.itertuples():
        parts = [row.label] if with_label else []
        parts += [f"{row.argument} = {row.value}"] if row.argument else []
        parts += [f"lr {number(row.lr)}"] if with_lr else []
        names.append(", ".join(parts))
    return names


def cell_texts(numbers: pd.DataFrame) -> list[str]:
    """Return the rows of `final_losses` as cells for readers."""
    return [show(row) for _, row in numbers.iterrows()]


def labelled(
    columns: dict[str, dict[str, str]], labels: list[str], name: str = "optimizer"
) -> pd.DataFrame:
    """Arrange cells by label, in the order of the profile."""
    return pd.DataFrame(columns, index=pd.Index(labels, name=name))
