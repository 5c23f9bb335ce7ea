"""The findings on the claims of papers, and the verdicts that follow from them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from analysis.claims.definitions import Claim, Part, Question, load_claims
from analysis.claims.rules import (
    convergence,
    cost,
    counted,
    effective_steps,
    own_rates,
    pairs,
    published,
    size,
    stability,
)
from analysis.claims.verdicts import (
    INCONCLUSIVE,
    NOT_TESTED,
    VERDICTS,
    Finding,
    corrected,
    overall,
)
from analysis.frames import Results

Rule = Callable[[Results, Question], Iterator[Finding]]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        convergence.converges_to_noise_floor,
        convergence.converges_without_floor,
        cost.peak_memory_saving,
        cost.step_time_share,
        cost.throughput,
        counted.state_ratio,
        counted.table_1,
        effective_steps.displacement,
        effective_steps.effective_step_as_adams,
        effective_steps.effective_step_from_above,
        effective_steps.effective_step_from_below,
        effective_steps.rounding_errors,
        own_rates.best_lr_ratio,
        own_rates.curvature,
        own_rates.gap_above,
        own_rates.token_ratio,
        pairs.attained_bound,
        pairs.difference,
        pairs.early_area,
        published.published_trend,
        size.gap_trend,
        stability.collapse,
        stability.late_collapse,
        stability.stability,
    )
}


@dataclass(frozen=True)
class Judged:
    """A claim with the findings on its parts.

    Args:
        number: its number in claims.yaml, such as "10a".
        claim: its definition.
        findings: all findings on it. Each part has exactly one primary finding.
    """

    number: str
    claim: Claim
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """Return the verdict on the whole claim, one of VERDICTS."""
        return overall([finding.verdict for finding in self._primary])

    @property
    def said(self) -> str:
        """Return the verdict with the number of tested parts, if some were not tested."""
        tested = sum(finding.verdict != NOT_TESTED for finding in self._primary)
        parts = len(self._primary)
        if tested in (0, parts):
            return self.verdict
        return f"{self.verdict} ({tested} of {parts} parts tested)"

    @property
    def statement(self) -> str:
        """Return the claim, marked if a later version of the paper withdraws it."""
        return self.claim.statement + (" (withdrawn)" if self.claim.withdrawn else "")

    @property
    def rules(self) -> list[str]:
        """Return the distinct rules behind the verdicts on the parts."""
        return list(dict.fromkeys(finding.rule for finding in self._primary))

    @property
    def _primary(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_primary]


def judge(results: Results, paper: str = "powerstep") -> list[Judged]:
    """Return every claim of a paper with its findings, in the order of its claims.yaml."""
    claims = load_claims(paper)
    found = [
        finding
        for number, claim in claims.items()
        for part in claim.parts
        for finding in _findings(results, number, part)
    ]
    found = corrected(found)
    return [
        Judged(number, claim, tuple(f for f in found if f.claim == number))
        for number, claim in claims.items()
    ]


def judge_all(results: Results, papers: Iterable[str]) -> dict[str, list[Judged]]:
    """Return the claims of several papers, by the names of the papers."""
    return {paper: judge(results, paper) for paper in papers}


def decidable(judged: list[Judged]) -> str:
    """Return in one line how many claims could be decided."""
    counts = {verdict: sum(each.verdict == verdict for each in judged) for verdict in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"of {len(judged)} claims {said}"


def _findings(results: Results, number: str, part: Part) -> Iterator[Finding]:
    """Yield the findings on a part: those of its own rule first, then the descriptions.

    The primary one is that of the largest model for which the part could be tested, if possible
    with as many seeds as the part needs.
    """
    own = [*RULES[part.rule](results, part)] or [Finding()]
    tested = [i for i, finding in enumerate(own) if finding.verdict != NOT_TESTED]
    enough = [i for i in tested if own[i].verdict != INCONCLUSIVE or own[i].n >= part.least]
    primary = next(iter([*enough, *tested]), 0)
    for i, finding in enumerate(own):
        verdict = finding.verdict if i == primary else ""
        yield replace(
            finding, claim=number, part=part.part, is_primary=i == primary, verdict=verdict
        )
    for question in part.describe:
        for finding in RULES[question.rule](results, question):
            yield replace(finding, claim=number, part=_described(question), verdict="")


def _described(question: Question) -> str:
    """Return what a description shows, as text."""
    cells = [" ".join(str(value) for value in cell.values()) for cell in (question.a, *question.b)]
    compared = " against ".join(filter(None, cells))
    return ", ".join(filter(None, [question.rule.replace("_", " "), compared]))
