"""Rules on divergence, spikes and collapse."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.definitions import Question
from analysis.claims.selection import each_model, rates, unless_learned
from analysis.claims.verdicts import (
    INCONCLUSIVE,
    LEVEL,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    Finding,
)
from analysis.estimates.losses import by_seed
from analysis.frames import Results
from experiments.runs.summary import ENDED, Status

RATES = 3  # learning rates over which stability must be shown


def stability(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether `a` stays stable wherever `b` does: no divergence and no spike.

    Compared are runs of both at the same rates and seeds, at rates up to the highest at which every
    run of `b` is stable.
    """
    rule = (
        f"Supported if no run over at least {RATES} learning rates diverged or had a spike, and the"
        f" 95 % bound of the share of such runs is below {question.margin:.0%}; at rates up to the"
        " highest at which the other is stable. Not supported if more of its runs did than of the"
        f" other's, by Fisher's exact test (p < {LEVEL}). Inconclusive otherwise. {question.reason}"
    )
    for each in each_model(results.runs, question):
        a, b = (_unstable(cell) for cell in (each.a, each.b[0]))
        common = a.index.intersection(b.index)
        stable = ~b.loc[common].groupby("lr").any()
        highest = max(stable.index[stable], default=math.nan)
        pairs = pd.DataFrame({"a": a, "b": b}).dropna().astype(bool)
        pairs = pairs[pairs.index.get_level_values("lr") <= highest]
        n, tried = len(pairs), pairs.index.get_level_values("lr").nunique()
        if not n:
            yield Finding(
                INCONCLUSIVE, "no rate at which the other is known to be stable", rule=rule
            )
            continue
        count, of_b = int(pairs["a"].sum()), int(pairs["b"].sum())
        table = [[count, n - count], [of_b, n - of_b]]
        p_refuted = float(stats.fisher_exact(table, alternative="greater").pvalue)
        bound = _highest_rate(count, n)
        verdict = INCONCLUSIVE
        if count == 0 and bound < question.margin and tried >= RATES:
            verdict = SUPPORTED
        elif p_refuted < LEVEL:
            verdict = NOT_SUPPORTED
        yield Finding(
            verdict,
            f"{count} of {n} runs diverged or had a spike, of the other {of_b}; at most {bound:.0%}"
            " of such runs do (95 % bound)",
            rates(pairs.reset_index()),
            each.scale,
            count / n,
            high=bound,
            p_refuted=p_refuted,
            n=n,
            rule=rule,
        )


def collapse(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether every run of `a` collapses beside `b` at the same rate and seed.

    A run collapses if it diverges, or if its final loss is more than the margin above its own best
    or above the other's.
    """
    rule = (
        f"Supported if each of at least {question.least} runs diverged or ended more than"
        f" {question.margin:g} nats above its own best loss or above the other's with the same"
        " seed, not supported if none did, inconclusive otherwise."
    )
    for each in each_model(results.runs, question):
        lr = each.a["shared_lr"].iloc[0]
        cells = [cell[cell["lr"] == lr] for cell in (each.a, each.b[0])]
        pairs = pd.DataFrame({"a": by_seed(cells[0]), "b": by_seed(cells[1])})
        pairs["rise"] = cells[0].drop_duplicates("seed").set_index("seed")["rise"].astype(float)
        known = pairs.dropna(subset=["a", "b"])
        above = np.maximum(known["a"] - known["b"], known["rise"].fillna(-math.inf))
        finding = _counted(above > question.margin, question.least, NOT_SUPPORTED)
        finding = replace(finding, protocol=f"lr {lr:g}", scale=each.scale, rule=rule)
        if np.isinf(known["a"]).all():  # a divergence needs no comparison with a model that learned
            yield finding
        else:
            yield unless_learned(finding, each.runs, known["b"].mean())


def late_collapse(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether every run of `a` diverges or rises by more than the margin after warm-up.

    Its models are smaller and its runs shorter than the paper's, so its absence decides nothing.
    """
    rule = (
        f"Supported if each of at least {question.least} runs diverged, or rose by more than"
        f" {question.margin:g} nats above its best loss, after the warm-up; inconclusive if only"
        " some did; else not tested, because the runs are shorter than the paper's."
    )
    for each in each_model(results.runs, question):
        ended = each.a[each.a["status"].isin(ENDED) & (each.a["lr"] == each.a["shared_lr"])]
        rose = ended[["rise", "largest_spike"]].astype(float).max(axis=1) > question.margin
        diverged = ended["status"] == Status.DIVERGED
        late = ended["steps"].astype(float) > ended["warmup_steps"]
        finding = _counted(late & (rose | diverged), question.least, NOT_TESTED)
        yield replace(finding, protocol=rates(ended), scale=each.scale, rule=rule)


def _unstable(cell: pd.DataFrame) -> pd.Series:
    """Return whether each run that ended diverged or had a spike, indexed by lr and seed.

    Runs of which it is not known, because their summaries are from before spikes were counted, are
    left out.
    """
    ended = cell[cell["status"].isin(ENDED)].set_index(["lr", "seed"])
    diverged, spikes = ended["status"] == Status.DIVERGED, ended["spikes"].astype(float)
    return (diverged | (spikes > 0))[diverged | spikes.notna()]


def _highest_rate(count: int, n: int) -> float:
    """Return the upper 95 % bound of a binomial probability.

    Source: Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    return 1.0 if count == n else float(stats.beta.ppf(1 - LEVEL, count + 1, n - count))


def _counted(collapsed: pd.Series, least: int, absent: str) -> Finding:
    """Return a finding by the number of runs that collapsed; `absent` is its verdict for none."""
    count, n = int(collapsed.sum()), len(collapsed)
    verdict = INCONCLUSIVE
    if n >= least and count == n:
        verdict = SUPPORTED
    elif count == 0 and (n >= least or absent == NOT_TESTED):
        verdict = absent
    return Finding(verdict, f"{count} of {n} runs", value=count / n if n else math.nan, n=n)
