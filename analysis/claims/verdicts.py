"""Verdicts on claims, on their parts, and the rules by which they follow from tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
INCONCLUSIVE = "inconclusive"
NOT_TESTED = "not tested at this scale"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_TESTED)

LEVEL = 0.05  # significance level of every one-sided test
INTERVAL = 1 - 2 * LEVEL  # level of the intervals, which agree with the one-sided tests

SCOPE = (
    "In each part of a claim one finding, the primary one, decides; the others describe. A claim is"
    " supported if each tested part is supported, not supported if a part is not supported, not"
    " tested if no part was tested, and inconclusive otherwise. A part is not supported only if its"
    " test remains significant after Holm's correction over the primary findings of all claims."
    " Losses decide nothing as long as the better model has not learned: it has once it has come"
    " three quarters of the way from the loss of a unigram model of the training tokens to that of"
    " a bigram model. Each verdict holds only at the scale given beside it; the paper's models have"
    " 124M to 235B parameters."
)


@dataclass(frozen=True)
class Finding:
    """The result for one part of a claim, at one model or scale.

    A rule leaves `claim`, `part` and `is_primary` to `analysis.claims.claims.find`.

    Args:
        verdict: one of VERDICTS; "" for a finding that only describes.
        measured: the result as text.
        protocol: the learning rates, or another description of the measurement.
        scale: model, number of parameters and of steps.
        value: the number behind the verdict; NaN if there is none.
        low: lower end of its interval of level INTERVAL; NaN if there is none.
        high: upper end.
        p_supported: p-value of the test that supports the part; NaN if there is none.
        p_refuted: p-value of the test that refutes it; NaN if there is none.
        n: number of runs, pairs or counts that `value` is based on.
        rule: the rule for the verdict, in words, with its margin.
        claim: number of the claim, such as "10a".
        part: statement of the part.
        is_primary: whether this finding decides on its part.
    """

    verdict: str = NOT_TESTED
    measured: str = "no runs for it in this profile"
    protocol: str = ""
    scale: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_supported: float = math.nan
    p_refuted: float = math.nan
    n: int = 0
    rule: str = "Not tested if the profile has no runs for it."
    claim: str = ""
    part: str = ""
    is_primary: bool = False

    @property
    def p_value(self) -> float:
        """Return the p-value of the test that decided; without a decision, the smaller one."""
        if self.verdict == SUPPORTED:
            return self.p_supported
        if self.verdict == NOT_SUPPORTED:
            return self.p_refuted
        known = [p for p in (self.p_supported, self.p_refuted) if not math.isnan(p)]
        return min(known, default=math.nan)

    def adding(self, text: str) -> "Finding":
        """Return the finding with a further result."""
        return replace(self, measured="; ".join(filter(None, [self.measured, text])))

    def decided(self, p_supported: float, p_refuted: float) -> "Finding":
        """Return the finding with two one-sided tests and the verdict that follows from them."""
        verdict = decide(p_supported, p_refuted)
        return replace(self, p_supported=p_supported, p_refuted=p_refuted, verdict=verdict)


def decide(p_supported: float, p_refuted: float) -> str:
    """Return the verdict of two one-sided tests; NaN for a test that could not be made."""
    if p_supported < LEVEL:
        return SUPPORTED
    return NOT_SUPPORTED if p_refuted < LEVEL else INCONCLUSIVE


def corrected(findings: Sequence[Finding]) -> list[Finding]:
    """Apply Holm's correction to the refutations among primary findings.

    A refutation that is no longer significant becomes inconclusive. Findings without a test, such
    as counts, are left as they are.

    Source: Holm, Scand. J. Statist. 6 (1979) 65-70.
    """
    tested = [i for i, f in enumerate(findings) if f.is_primary and not math.isnan(f.p_refuted)]
    tested.sort(key=lambda i: findings[i].p_refuted)
    found, largest = [*findings], 0.0
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * findings[i].p_refuted))
        if findings[i].verdict == NOT_SUPPORTED and largest >= LEVEL:
            noted = findings[i].adding(f"p = {largest:.2g} after Holm's correction")
            found[i] = replace(noted, verdict=INCONCLUSIVE)
    return found


def overall(verdicts: Sequence[str]) -> str:
    """Return the verdict on a whole claim from those on its parts, by the rule in SCOPE."""
    tested = {*verdicts} - {NOT_TESTED}
    if NOT_SUPPORTED in tested:
        return NOT_SUPPORTED
    if INCONCLUSIVE in tested:
        return INCONCLUSIVE
    return SUPPORTED if tested else NOT_TESTED
