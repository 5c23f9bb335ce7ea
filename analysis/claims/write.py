"""Writing the verdicts: all findings as CSV, and a verdict on each claim as Markdown."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.claims.claims import Judged, decidable
from analysis.claims.verdicts import INTERVAL, SCOPE, Finding
from analysis.frames import Results, origins
from analysis.text import markdown
from experiments.files import atomic

_COLUMNS = ["claim", "statement", "paper", "version", "withdrawn", "part", "is_primary"]
_COLUMNS += ["verdict", "measured", "protocol", "scale", "value", "low", "high", "p_value", "n"]
_COLUMNS += ["rule"]


def write_claims(results: Results, judged: Mapping[str, list[Judged]], folder: Path) -> None:
    """Write `claims.csv`, one row for each finding, and `claims.md`, the verdict on each claim.

    Args:
        results: results of all runs of the plan.
        judged: the claims of each paper.
        folder: results of the profile.
    """
    with atomic(folder / "claims.csv") as path:
        everything = [each for claims in judged.values() for each in claims]
        claims_frame(everything).to_csv(path, index=False)
    with atomic(folder / "claims.md") as path:
        sections = [_markdown(claims) for claims in judged.values()]
        provenance = ["## Provenance", "", markdown(origins(results.runs))]
        path.write_text("\n".join([*sections, *provenance]), encoding="utf-8")


def claims_frame(judged: list[Judged]) -> pd.DataFrame:
    """Return one row for each finding; low and high are its interval of level INTERVAL."""
    rows = [
        vars(finding)
        | {name: getattr(each.claim, name) for name in _COLUMNS[1:5]}
        | {"p_value": finding.p_value}
        for each in judged
        for finding in each.findings
    ]
    return pd.DataFrame(rows)[_COLUMNS]


def sentence(finding: Finding) -> str:
    """Return a finding as text: the part, what was measured, p and the scale."""
    p = f"p = {finding.p_value:.2g}" if finding.p_value == finding.p_value else ""
    context = "; ".join(filter(None, [finding.protocol, finding.scale, p]))
    return f"{finding.part}: {finding.measured}" + (f" ({context})" if context else "")


def _markdown(judged: list[Judged]) -> str:
    """Return the table of verdicts, and the findings on each claim."""
    lines = [f"At this scale, {decidable(judged)}.", "", "| claim | verdict |", "|---|---|"]
    lines += [f"| {each.number}. {each.statement} | **{each.said}** |" for each in judged]
    lines += ["", f"{SCOPE} Intervals in square brackets are of {INTERVAL:.0%}.", ""]
    for each in judged:
        lines += [f"## {each.number}. {each.statement}: {each.said}", ""]
        lines += [f"The paper reports: {each.claim.paper}.", ""]
        lines += [
            f"- **{f.verdict}**: {sentence(f)}" if f.is_primary else f"- {sentence(f)}"
            for f in each.findings
        ]
        lines += ["", *(f"> {rule}" for rule in each.rules), ""]
    return "\n".join(lines)
