"""Numbers and tables as text: digits, Markdown and LaTeX."""

import re

import pandas as pd

MISSING = "–"

# Characters with a meaning in GitHub's Markdown. An underscore has one at the edge of a word only.
_MARKUP = re.compile(r"([\\|*<$`~]|&(?=#|\w+;)|(?<!\w)_|_(?!\w))")
_COMMANDS = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MISSING: "--",
}


def number(value: float) -> str:
    """Return a number in the fewest digits that identify it."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, with its index as the first column."""
    plain = table.map(_without_markup).rename(index=_without_markup, columns=_without_markup)
    return plain.to_markdown(disable_numparse=True) + "\n"


def latex(table: pd.DataFrame) -> str:
    """Return a table as a booktabs tabular, with its index as the first column."""
    text = table.reset_index().to_latex(index=False, escape=True)
    for character, command in _COMMANDS.items():
        text = text.replace(character, command)
    return re.sub(r"\n(?=[\[*])", r"\n{}", text)  # after \\ LaTeX would read [ or * as its argument


def _without_markup(cell: object) -> object:
    return _MARKUP.sub(r"\\\1", cell) if isinstance(cell, str) else cell
