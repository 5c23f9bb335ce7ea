"""Verdicts on claims and their parts, and the rules behind them."""

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

LEVEL = 0.05  # significance level of every test

SCOPE = (
    "A claim is supported if every tested part is supported, and not supported if at least one is"
    " not supported. It is not tested if no part was tested, and inconclusive otherwise. Each"
    " verdict holds only at the scale given beside it; the paper's models have 124M to 235B"
    " parameters."
)


@dataclass(frozen=True)
class Finding:
    """The result for one part of a claim, and the verdict on it.

    Args:
        claim: number of the claim.
        part: statement of the part.
        verdict: one of VERDICTS.
        measured: the result as text.
        protocol: the learning rates, or another description of the measurement.
        scale: model, number of parameters and of steps.
        value: the number behind the verdict; NaN if there is none.
        ci95: half-width of its 95 % interval; NaN if there is none.
        p_value: p-value of the test that supports the part; NaN if there is none.
        n: number of seeds, runs or counts that `value` is based on.
        rule: the rule for the verdict, in words.
    """

    claim: int
    part: str
    verdict: str = NOT_TESTED
    measured: str = "no runs for it in this profile"
    protocol: str = ""
    scale: str = ""
    value: float = math.nan
    ci95: float = math.nan
    p_value: float = math.nan
    n: int = 0
    rule: str = "Not tested if the profile has no runs for it."


def overall(findings: Iterable[Finding]) -> str:
    """Return the verdict on a whole claim, by the rule that SCOPE states."""
    verdicts = {finding.verdict for finding in findings} - {NOT_TESTED}
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    if INCONCLUSIVE in verdicts:
        return INCONCLUSIVE
    return SUPPORTED if verdicts else NOT_TESTED


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with the findings on its parts."""

    number: int
    statement: str
    paper: str  # the evidence that the paper reports
    parts: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """Return the verdict on the whole claim."""
        return overall(self.parts)

    @property
    def counts(self) -> str:
        """Return the number of parts with each verdict, as text."""
        verdicts = [part.verdict for part in self.parts]
        counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)

    @property
    def rules(self) -> list[str]:
        """Return the distinct rules behind the verdicts on the parts."""
        return list(dict.fromkeys(part.rule for part in self.parts))


@dataclass(frozen=True)
class Rule:
    """A rule by which losses `a` and `b` with the same seeds decide on a part of a claim.

    Args:
        sentence: the rule in words.
        p_supported: returns the p-value of the test that supports the part.
        p_refuted: returns the p-value of the test that refutes it.
        if_a_diverged: verdict if only `a` diverged with a seed that the other completed.
        if_b_diverged: verdict if only `b` diverged with a seed that the other completed.
    """

    sentence: str
    p_supported: Callable[[Comparison], float]
    p_refuted: Callable[[Comparison], float]
    if_a_diverged: str
    if_b_diverged: str


_TEST = "if a one-sided paired t-test over seeds shows the mean difference to be"
_REST = (
    f"(each p < {LEVEL}), inconclusive otherwise. If only one of the two diverged with seeds that"
    " the other completed, its loss counts as infinite and decides the verdict. Any other"
    " divergence makes it inconclusive."
)

NOT_ABOVE = Rule(
    f"Supported {_TEST} below {MARGIN} nats, not supported if one shows it to be above {_REST}",
    lambda comparison: comparison.p_not_above,
    lambda comparison: 1 - comparison.p_not_above,
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=SUPPORTED,
)
ABOVE = Rule(
    f"Supported {_TEST} above {MARGIN} nats, not supported if one shows it to be below {_REST}",
    lambda comparison: 1 - comparison.p_not_above,
    lambda comparison: comparison.p_not_above,
    if_a_diverged=SUPPORTED,
    if_b_diverged=NOT_SUPPORTED,
)
EQUIVALENT = Rule(
    f"Supported if two one-sided paired t-tests over seeds show the mean difference to be within"
    f" ±{MARGIN} nats, not supported if one shows it to be outside {_REST}",
    lambda comparison: comparison.p_equivalent,
    lambda comparison: min(1 - comparison.p_not_above, 1 - comparison.p_not_below),
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=NOT_SUPPORTED,
)
LOWER = Rule(
    f"Supported {_TEST} below 0, not supported if one shows it to be above {_REST}",
    lambda comparison: comparison.p_lower,
    lambda comparison: 1 - comparison.p_lower,
    if_a_diverged=NOT_SUPPORTED,
    if_b_diverged=SUPPORTED,
)


def judge(
    finding: Finding, rule: Rule, a: pd.Series, b: pd.Series, margin: float = MARGIN
) -> Finding:
    """Return a finding with the verdict and the numbers that follow from losses by a rule.

    With a single seed there is no test, so the verdict is inconclusive unless one run diverged.

    Args:
        finding: the part, protocol and scale.
        rule: rule by which `a` and `b` decide.
        a: losses indexed by seed; inf for a diverged run, NaN for a missing one.
        b: losses to compare with, in the same form.
        margin: margin of the rule's tests, in the unit of the losses.
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
        f"{subject} diverged with {k} of {len(pairs)} seeds"
        for subject, k in (
            ("it", a_only),
            ("the other", b_only),
            ("both", len(pairs) - len(finite) - a_only - b_only),
        )
        if k
    ]
    if missing := len(a.index.union(b.index)) - len(pairs):
        said.append(f"{missing} missing")
    if comparison is None:
        return replace(finding, verdict=verdict, measured=", ".join(said) or "no seed in common")
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
