"""Rules on optimizer state, which is counted on models at their published sizes."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.definitions import Question
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Finding
from analysis.frames import Results, read_table
from analysis.papers.numbers import load_paper

_OTHERWISE = (
    "not supported if one is not, inconclusive if all known values are but some are missing."
)


def state_ratio(results: Results, question: Question) -> Iterator[Finding]:
    """Judge the ratio of AdamW's optimizer state to that of `a`, for each published model.

    It must be within a fraction `margin` of `options: {ratio: …}`.
    """
    memory = read_table(results.folder / "memory.csv").pivot(
        index="model", columns="optimizer", values="state_bytes"
    )
    memory = memory.loc[[name for name in load_paper()["models"] if name in memory.index]]
    compared = memory.reindex(columns=["adamw", question.a["optimizer"]])
    ratios = compared.iloc[:, 0] / compared.iloc[:, 1]
    measured, expected = ratios.dropna(), question.options["ratio"]
    finding = Finding(
        measured=f"{measured.min():.4f} to {measured.max():.4f} times less",
        protocol="counted from the tensors that each optimizer allocates",
        scale=f"{len(measured)} models at their published sizes",
        value=measured.mean(),
        n=len(measured),
        rule=f"Supported if the ratio of every model is within {question.margin:.1%} of"
        f" {expected:.4f}, {_OTHERWISE}",
    )
    met = bool(np.isclose(measured, expected, rtol=question.margin).all())
    yield _of_counts(finding, met, len(ratios) - len(measured))


def table_1(results: Results, question: Question) -> Iterator[Finding]:
    """Judge how close our count of state per device is to table 1.

    `options: {count: …}` is the column of memory.csv: mib_per_device_as_paper has only the routed
    experts of mixtures of experts, mib_per_device the whole model.
    """
    published = pd.DataFrame(load_paper()["state_mib_per_device"]).stack()
    memory = read_table(results.folder / "memory.csv")
    ours = memory.set_index(["optimizer", "model"])[question.options["count"]]
    # Both are rounded to tenths, as printed. Differences of tenths are inexact in binary.
    difference = (ours.reindex(published.index).round(1) - published).abs().dropna()
    away = difference.max().round(1) if len(difference) else math.nan
    excess = (ours.reindex(published.index) / published - 1).dropna()
    finding = Finding(
        measured=f"at most {away:.1f} MiB ({excess.abs().max():.1%}) from the published values",
        protocol=question.protocol,
        scale=f"{len(published.unstack(0))} models at their published sizes, 256 devices",
        value=away,
        n=len(difference),
        rule=f"Supported if every value, rounded to 0.1 MiB as in the paper, is within"
        f" {question.margin:g} MiB of the published one, {_OTHERWISE}",
    )
    yield _of_counts(finding, away <= question.margin, len(published) - len(difference))


def _of_counts(finding: Finding, met: bool, missing: int) -> Finding:
    """Return a finding on counted state with its verdict.

    Args:
        finding: the finding, with the number of counts as `n`.
        met: whether all of these counts agree with the paper.
        missing: number of further counts that are missing.
    """
    if not finding.n:
        return replace(finding, measured="no state could be counted for it", scale="")
    verdict = (INCONCLUSIVE if missing else SUPPORTED) if met else NOT_SUPPORTED
    measured = finding.measured + (f", {missing} missing" if missing else "")
    return replace(finding, verdict=verdict, measured=measured)
