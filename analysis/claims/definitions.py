"""The claims of a paper as data: analysis/papers/<paper>/claims.yaml.

A claim has parts. Each part has a rule of analysis.claims.rules, the cells of runs that the rule
compares, and a margin with its reason. The part's own rule gives its primary finding, which
decides; the rules under `describe` give findings without a verdict.
"""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from experiments.settings import ConfigError, Items, Plain, Settings, parse
from experiments.yaml_loader import read_yaml

_PAPERS = Path(__file__).parents[1] / "papers"

# Values of columns of analysis.frames.Results.runs that select runs. Any other key is an argument
# of the optimizer, as in {optimizer: powerstep, beta: 0.1}.
Cell = dict[str, Plain[Any]]


class Question(Settings):
    """A comparison or a measurement, and the rule that makes a finding of it."""

    rule: str = Field(description="name of a rule in analysis.claims.rules")
    a: Cell = Field(default={}, description="runs that the statement is about")
    b: Items[Cell] = Field(default=(), description="runs to compare with, one cell or several")
    margin: float | None = Field(default=None, description="margin of the rule, in its unit")
    reason: str = Field(default="", description="why the margin has this value")
    least: int = Field(default=3, gt=1, description="smallest n with which the rule decides")
    options: dict[str, Plain[Any]] = Field(default={}, description="further values of the rule")
    protocol: str = Field(default="", description="description of the measurement")


class Part(Question):
    """A part of a claim: a statement that its primary finding decides."""

    part: str = Field(description="statement that can be true or false")
    describe: Items[Question] = Field(default=(), description="findings without a verdict")


class Claim(Settings):
    """A claim of a paper."""

    statement: str
    paper: str = Field(description="evidence that the paper reports, or who states the claim")
    version: str = Field(default="v1", description="version of the paper that makes it")
    withdrawn: bool = Field(default=False, description="whether a later version withdraws it")
    parts: Items[Part] = Field(min_length=1)


class _Claims(Settings):
    claims: dict[str, Claim] = Field(min_length=1)


def definitions_of(paper: str) -> Path:
    """Return the path of a paper's claims.yaml."""
    return _PAPERS / paper / "claims.yaml"


@cache
def load_claims(paper: str) -> dict[str, Claim]:
    """Return the claims of a paper by their numbers, such as "10a".

    Args:
        paper: name of a folder of analysis/papers.

    Raises:
        ConfigError: there is no such folder, or the file does not have this form.
    """
    known = sorted(path.parent.name for path in _PAPERS.glob("*/claims.yaml"))
    if paper not in known:
        raise ConfigError(("papers",), f"has {paper!r}, but it must be one of {', '.join(known)}")
    return parse(_Claims, read_yaml(definitions_of(paper))).claims
