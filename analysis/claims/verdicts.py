"""Verdicts on parts of claims, and the rules they follow."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.statistics import MARGIN, Comparison, compare

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
INCONCLUSIVE = "inconclusive"
NOT_TESTED = "not tested at this scale"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_TESTED)

LEVEL = 0.05  # of every test

SCOPE = (
    "A claim is supported if all parts of it that were tested are, and not supported if one of them"
    " is not. Verdicts hold at the scale that is named beside them; the paper's models have 124M to"
    " 235B parameters."
)


@dataclass(frozen=True)
class Finding:
    """What was measured for one part of a claim, and what follows.

    Args:
        claim: its number.
        part: what of it was tested.
        verdict: one of VERDICTS.
        measured: for readers.
        protocol: at which learning rates, or how else it was measured.
        scale: model, parameters and steps.
        value: the number behind the verdict; NaN where there is none.
        ci95: half the width of its 95 % interval.
        p_value: of the test by which the rule supports it.
        n: seeds.
        rule: the sentence by which the verdict follows.
    """

    claim: int
    part: str
    verdict: str = NOT_TESTED
    measured: str = "no runs of it in this profile"
    protocol: str = ""
    scale: str = ""
    value: float = math.nan
    ci95: float = math.nan
    p_value: float = math.nan
    n: int = 0
    rule: str = "Not tested where the profile has no runs for it."


def overall(findings: Iterable[Finding]) -> str:
    """Return the verdict on a whole claim.

    Supported if every part that was tested is; not supported if one of them is not; not tested if
    none was; inconclusive otherwise.
    """
    verdicts = {finding.verdict for finding in findings} - {NOT_TESTED}
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    if INCONCLUSIVE in verdicts:
        return INCONCLUSIVE
    return SUPPORTED if verdicts else NOT_TESTED


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the findings on its parts."""

    number: int
    statement: str
    paper: str  # what it reports
    parts: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """Return the verdict on the whole."""
        return overall(self.parts)

    @property
    def counts(self) -> str:
        """Say how many parts have each verdict."""
        verdicts = [part.verdict for part in self.parts]
        counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)

    @property
    def rules(self) -> list[str]:
        """Return the rules that the parts follow, each once."""
        return list(dict.fromkeys(part.rule for part in self.parts))


@dataclass(frozen=True)
class Rule:
    """How the losses `a` and `b` of the same seeds decide on a part of a claim.

    Args:
        sentence: the rule in words.
        p_supported: p-value of the test that supports the part.
        p_refuted: p-value of the test against it.
        if_a_diverged: verdict where a seed diverged with `a` and not with `b`.
        if_b_diverged: the same the other way round.
    """

    sentence: str
    p_supported: Callable[[Comparison], float]
    p_refuted: Callable[[Comparison], float]
    if_a_diverged: str
    if_b_diverged: str


_REST = (
    f"(each p < {LEVEL}), inconclusive otherwise. Where one of the two diverged with a seed of the"
    " other's, its loss counts as infinite."
)

NOT_ABOVE = Rule(
    f"Supported if a one-sided paired t-test puts the difference below {MARGIN} nats, not supported"
    f" if one puts it above {_REST}",
    lambda comparison: comparison.p_not_above,
    lambda comparison: 1 - comparison.p_not_above,
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=SUPPORTED,
)
ABOVE = Rule(
    f"Supported if a one-sided paired t-test puts the difference above {MARGIN} nats, not supported"
    f" if one puts it below {_REST}",
    lambda comparison: 1 - comparison.p_not_above,
    lambda comparison: comparison.p_not_above,
    if_a_diverged=SUPPORTED,
    if_b_diverged=NOT_SUPPORTED,
)
EQUIVALENT = Rule(
    f"Supported if two one-sided paired t-tests put the difference within ±{MARGIN} nats, not"
    f" supported if one puts it outside {_REST}",
    lambda comparison: comparison.p_equivalent,
    lambda comparison: min(1 - comparison.p_not_above, 1 - comparison.p_not_below),
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=NOT_SUPPORTED,
)
LOWER = Rule(
    f"Supported if a one-sided paired t-test puts the difference below 0, not supported if one puts"
    f" it above {_REST}",
    lambda comparison: comparison.p_lower,
    lambda comparison: 1 - comparison.p_lower,
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=SUPPORTED,
)


def judge(
    finding: Finding, rule: Rule, a: pd.Series, b: pd.Series, margin: float = MARGIN
) -> Finding:
    """Complete a finding by a rule; with a single seed there is no test, and no conclusion.

    Args:
        finding: what is asked, and where.
        rule: by which `a` and `b` decide.
        a: losses by seed (the index): inf where a run diverged, NaN where it is missing.
        b: the same of what `a` is compared with.
        margin: of the rule's tests.
    """
    finding = replace(finding, rule=rule.sentence)
    pairs = pd.DataFrame({"a": a, "b": b}).dropna()
    a_only = int((np.isinf(pairs["a"]) & ~np.isinf(pairs["b"])).sum())
    b_only = int((np.isinf(pairs["b"]) & ~np.isinf(pairs["a"])).sum())
    finite = pairs[~np.isinf(pairs).any(axis=1)]
    comparison = compare(finite["a"], finite["b"], margin)
    verdict = INCONCLUSIVE
    if a_only and not b_only:
        verdict = rule.if_a_diverged
    elif b_only and not a_only:
        verdict = rule.if_b_diverged
    elif comparison and len(finite) == len(pairs):
        if rule.p_supported(comparison) < LEVEL:
            verdict = SUPPORTED
        elif rule.p_refuted(comparison) < LEVEL:
            verdict = NOT_SUPPORTED
    said = [
        f"{what} diverged in {k} of {len(pairs)}"
        for what, k in (
            ("it", a_only),
            ("the other", b_only),
            ("both", len(pairs) - len(finite) - a_only - b_only),
        )
        if k
    ]
    if missing := len(a.index.union(b.index)) - len(pairs):
        said.append(f"{missing} missing")
    if comparison is None:
        return replace(finding, verdict=verdict, measured=", ".join(said) or "no seed with both")
    difference, p_value = comparison.difference, rule.p_supported(comparison)
    test = "no test with one seed" if difference.n < 2 else f"p = {p_value:.2g}"
    return replace(
        finding,
        verdict=verdict,
        measured=", ".join([f"{difference:+} nats (n={difference.n}, {test})", *said]),
        value=difference.mean,
        ci95=difference.half_width,
        p_value=p_value,
        n=difference.n,
    )
