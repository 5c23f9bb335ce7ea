"""Writing the verdicts: all findings as CSV, and a verdict on each claim as Markdown."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analysis.claims.claims import by_claim, find
from analysis.claims.verdicts import SCOPE, Finding
from analysis.frames import Results, origins
from analysis.paper import load_paper
from analysis.text import markdown
from experiments.files import atomic


def write_claims(results: Results, folder: Path) -> None:
    """Write `claims.csv`, one row for each finding, and `claims.md`, the verdict on each claim."""
    findings = find(results)
    with atomic(folder / "claims.csv") as path:
        claims_frame(findings).to_csv(path, index=False)
    with atomic(folder / "claims.md") as path:
        path.write_text(_markdown(findings, results.runs), encoding="utf-8")


def claims_frame(findings: list[Finding]) -> pd.DataFrame:
    """Return one row for each finding, with the claim's statement and the paper's evidence."""
    claims = load_paper()["claims"]
    rows = [claims[finding.claim] | asdict(finding) for finding in findings]
    first = ["claim", "statement", "paper", "part", "protocol", "scale", "measured"]
    last = ["value", "ci95", "p_value", "n", "verdict", "rule"]
    return pd.DataFrame(rows)[first + last]


def _markdown(findings: list[Finding], runs: pd.DataFrame) -> str:
    """Return the table of verdicts, the findings on each claim, and the provenance of the runs."""
    claims = by_claim(findings)
    lines = ["| claim | verdict |", "|---|---|"]
    lines += [f"| {claim.number}. {claim.statement} | **{claim.verdict}** |" for claim in claims]
    lines += ["", SCOPE]
    for claim in claims:
        lines += [
            "",
            f"## {claim.number}. {claim.statement}: {claim.verdict}",
            "",
            f"The paper reports: {claim.paper}.",
            "",
        ]
        lines += [f"- {_sentence(finding)}" for finding in claim.parts]
        lines += ["", *(f"> {rule}" for rule in claim.rules)]
    lines += ["", "## Provenance", "", markdown(origins(runs))]
    return "\n".join(lines)


def _sentence(finding: Finding) -> str:
    context = "; ".join(text for text in (finding.protocol, finding.scale) if text)
    return f"**{finding.verdict}**: {finding.part}: {finding.measured}" + (
        f" ({context})." if context else "."
    )
