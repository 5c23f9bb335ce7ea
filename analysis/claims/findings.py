"""Ways of judging a part of a claim by runs."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.claims.verdicts import (
    ABOVE,
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
    Rule,
    judge,
)
from analysis.frames import Results
from analysis.losses import best_lr, by_seed, is_shared, is_sweep, show_lr
from analysis.statistics import MARGIN
from analysis.text import number
from experiments.runs.summary import ENDED, Status

# Nats per token. A run has collapsed if it ends further than this above AdamW's final loss.
COLLAPSE = 0.5


def both_protocols(
    results: Results, finding: Finding, a: str, b: str, rule: Rule
) -> Iterator[Finding]:
    """Judge optimizer `a` against `b` for each model, at the shared and at their own best rates."""
    runs = results.runs[results.runs["argument"] == ""]
    shared = runs[is_shared(runs)]
    own = replace(
        finding, protocol="own best lr", measured="no complete sweep of both in this profile"
    )
    at_shared = replace(finding, protocol="shared lr")
    yield from each_model(shared, at_shared, {"optimizer": a}, {"optimizer": b}, rule)
    best = best_lr(runs)
    models = models_with(best, {"optimizer": a}, {"optimizer": b})
    for model in models:
        chosen = {name: where(best, model=model, optimizer=name).iloc[0] for name in (a, b)}
        sweep = where(runs[is_sweep(runs)], model=model)
        losses = [
            by_seed(where(sweep, optimizer=name, lr=row["lr"])) for name, row in chosen.items()
        ]
        rates = ", ".join(f"{row['label']} {show_lr(row)}" for row in chosen.values())
        asked = replace(own, protocol=f"own best lr: {rates}", scale=scale(sweep, model))
        yield _within_sweep(judge(asked, rule, *losses), rule, chosen[a]["edge"], chosen[b]["edge"])
    if not models:
        yield own


def _within_sweep(finding: Finding, rule: Rule, a_at_edge: bool, b_at_edge: bool) -> Finding:
    """Make a finding inconclusive if a learning rate outside a sweep could reverse its verdict.

    Args:
        finding: finding at the best rates of `a` and `b`.
        rule: rule by which it was judged.
        a_at_edge: whether the best rate of `a` is at the edge of its sweep. If so, a rate beyond
            the edge may give a lower loss.
        b_at_edge: whether the best rate of `b` is at the edge of its sweep.
    """
    finding = replace(
        finding,
        rule=f"{finding.rule} Also inconclusive if a best learning rate is at the edge of its sweep"
        " and a better one beyond the edge could reverse the verdict.",
    )
    lower_a_reverses = (finding.verdict == SUPPORTED) == (rule is ABOVE)
    is_open = a_at_edge if lower_a_reverses else b_at_edge
    return replace(finding, verdict=INCONCLUSIVE) if is_open else finding


def each_model(
    runs: pd.DataFrame,
    finding: Finding,
    a: dict[str, Any],
    b: dict[str, Any],
    rule: Rule,
    column: str = "final_val_loss",
    margin: float = MARGIN,
) -> Iterator[Finding]:
    """Judge the runs that match `a` against those that match `b`, for each model with both.

    Args:
        runs: the runs to choose from.
        finding: the part and its protocol.
        a: values of columns.
        b: values of columns, of the runs to compare with.
        rule: rule by which the runs decide.
        column: name of the column with the losses.
        margin: margin of the rule's tests, in the unit of the losses.
    """
    models = models_with(runs, a, b)
    for model in models:
        of_model = where(runs, model=model)
        losses = [by_seed(where(of_model, **cell), column) for cell in (a, b)]
        asked = replace(finding, scale=scale(of_model, model))
        if finding.protocol == "shared lr":
            asked = replace(asked, protocol=f"shared lr {number(of_model['lr'].iloc[0])}")
        yield judge(asked, rule, *losses, margin)
    if not models:
        yield finding


def never_diverges(runs: pd.DataFrame, finding: Finding, optimizer: str) -> Finding:
    """Return a finding with its verdict: whether an optimizer diverged in any experiment."""
    ended = where(runs, optimizer=optimizer).drop_duplicates("run")
    ended = ended[ended["status"].isin(ENDED)]
    finding = replace(
        finding, rule="Supported if no run of it diverged, not supported if at least one did."
    )
    if ended.empty:
        return finding
    count, n = int((ended["status"] == Status.DIVERGED).sum()), len(ended)
    return replace(
        finding,
        verdict=NOT_SUPPORTED if count else SUPPORTED,
        measured=f"{count} of {n} runs diverged",
        protocol=_rates(ended),
        scale=_scales(ended),
        value=count / n,
        n=n,
    )


def collapses(runs: pd.DataFrame, finding: Finding, optimizer: str) -> Iterator[Finding]:
    """Judge for each model whether an optimizer diverges or ends far above AdamW."""
    finding = replace(
        finding,
        rule=f"Supported if every seed diverged or ended more than {COLLAPSE} nats above AdamW with"
        " the same seed and learning rate, inconclusive if only some did or a seed cannot be"
        " compared, not supported otherwise.",
    )
    shared = runs[(runs["argument"] == "") & is_shared(runs)]
    models = models_with(shared, {"optimizer": optimizer}, {"optimizer": "adamw"})
    for model in models:
        cell, adamw = (
            by_seed(where(shared, model=model, optimizer=name)) for name in (optimizer, "adamw")
        )
        asked = replace(finding, protocol="shared lr", scale=scale(shared, model))
        yield counted(asked, cell - adamw.reindex(cell.index), COLLAPSE, NOT_SUPPORTED)
    if not models:
        yield finding


def counted(finding: Finding, above: pd.Series, threshold: float, absent: str) -> Finding:
    """Return a finding with the verdict that follows from how many seeds exceed a threshold.

    It is supported if all seeds do, and inconclusive if some do or the value of one is missing.

    Args:
        finding: the part, protocol and scale.
        above: loss above a reference, in nats per token, indexed by seed; inf for a diverged run,
            NaN if it is missing.
        threshold: threshold in nats per token.
        absent: verdict if no seed exceeds it.
    """
    known = above.dropna()
    count, n, unknown = int((known > threshold).sum()), len(known), len(above) - len(known)
    verdict = INCONCLUSIVE
    if not unknown and n:
        verdict = SUPPORTED if count == n else INCONCLUSIVE if count else absent
    return replace(
        finding,
        verdict=verdict,
        measured=f"{count} of {n} runs" + (f", {unknown} missing" if unknown else ""),
        value=count / n if n else math.nan,
        n=n,
    )


def models_with(runs: pd.DataFrame, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the models that have runs matching `a` and runs matching `b`."""
    has_b = set(where(runs, **b)["model"])
    return [model for model in where(runs, **a)["model"].unique() if model in has_b]


def where(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    """Return the rows in which each named column has the given value."""
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    return frame


def scale(runs: pd.DataFrame, model: str) -> str:
    """Return the size of a model and the length of its training, as text."""
    of_model = where(runs, model=model)
    size = of_model["parameters"].max()
    steps = f"{of_model['planned_steps'].iloc[0]:,} steps"
    return f"{model}, {steps}" if math.isnan(size) else f"{model}, {size / 1e6:.1f}M, {steps}"


def _scales(runs: pd.DataFrame) -> str:
    return "; ".join(scale(runs, model) for model in runs["model"].unique())


def _rates(runs: pd.DataFrame) -> str:
    return "lr " + ", ".join(number(lr) for lr in sorted(runs["lr"].unique()))
