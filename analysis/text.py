"""How numbers and names are written for readers: digits, Markdown and LaTeX."""

import re

import pandas as pd

MISSING = "–"

# Characters that mean something in GitHub's Markdown; an underscore does at the edge of a word.
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
    """Return a number in as few digits as tell it from any other."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, its index first."""
    plain = table.map(_without_markup).rename(index=_without_markup, columns=_without_markup)
    return plain.to_markdown(disable_numparse=True) + "\n"


def latex(table: pd.DataFrame) -> str:
    """Return a table as a booktabs tabular, its index first."""
    text = table.reset_index().to_latex(index=False, escape=True)
    for character, command in _COMMANDS.items():
        text = text.replace(character, command)
    return re.sub(r"\n(?=[\[*])", r"\n{}", text)  # behind \\ these would be arguments of it


def _without_markup(cell: object) -> object:
    return _MARKUP.sub(r"\\\1", cell) if isinstance(cell, str) else cell
