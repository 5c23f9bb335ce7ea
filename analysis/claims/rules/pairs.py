"""Rules that compare two optimizers seed by seed at common learning rates."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.definitions import Question
from analysis.claims.selection import Compared, each_model, in_nats, unless_learned
from analysis.claims.verdicts import INCONCLUSIVE, INTERVAL, LEVEL, Finding
from analysis.estimates.losses import by_seed
from analysis.estimates.statistics import Measured, mean_of
from analysis.frames import Results
from analysis.text import number
from experiments.runs.summary import ENDED, Status

EARLY = 0.2  # fraction of a run's steps that counts as early


def attained_bound(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether `a` ends at most the margin above `b`, at one common learning rate.

    The attained bound δ* is the upper end of the interval of the mean difference: the smallest
    margin that these runs could support. The rate is that with the most pairs.
    """
    margin = question.margin
    rule = (
        f"Supported if the attained bound δ*, the upper end of the {INTERVAL:.0%} interval, is at"
        f" most {margin:g} nats, not supported if the lower end is above. Inconclusive with fewer"
        f" than {question.least} pairs. {question.reason}"
    )
    for each in each_model(results.runs, question):
        lr, pairs = _most_pairs(each)
        if pairs is None:
            yield Finding(INCONCLUSIVE, "no common learning rate", "", each.scale, rule=rule)
            continue
        finding, mean, complete = _differences(each, pairs)
        finding = replace(finding, protocol=f"lr {number(lr)}", rule=rule)
        if complete and len(pairs) >= question.least:
            finding = finding.decided(mean.p_below(margin), mean.p_above(margin))
        if not math.isnan(finding.high):
            finding = finding.adding(f"δ* = {finding.high:.3f} nats")
            if needed := _needed(mean, question.options.get("published")):
                published = question.options["published"]
                finding = finding.adding(f"the paper's {published:g} needs {needed} pairs")
        yield unless_learned(finding, each.runs, *pairs.mean())


def difference(results: Results, question: Question) -> Iterator[Finding]:
    """Describe the difference of final losses at each learning rate that both have."""
    for each in each_model(results.runs, question):
        for lr, pairs in _common_rates(each):
            finding, _, _ = _differences(each, pairs)
            finding = replace(finding, protocol=f"lr {number(lr)}")
            yield unless_learned(finding, each.runs, *pairs.mean())


def early_area(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the early training loss of `a` is below that of `b`, each at its best rate.

    Compared is the mean training loss over ln(step) in the first EARLY of the steps. A run that
    diverges only later counts with its early loss.
    """
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the difference of the mean training loss over"
        f" ln(step), in the first {EARLY:.0%} of the steps, lies below 0, not supported if it lies"
        f" above. Inconclusive with fewer than {question.least} seeds."
    )
    for each in each_model(results.runs, question):
        best = [_at_best_rate(cell) for cell in (each.a, each.b[0])]
        if any(cell.empty for cell in best):
            yield Finding(INCONCLUSIVE, "no rate is complete", "", each.scale, rule=rule)
            continue
        areas = [
            cell.set_index("seed")["run"].map(lambda run: _early_loss(results, run))
            for cell in best
        ]
        pairs = pd.DataFrame(dict(zip("ab", areas, strict=True))).dropna()
        if pairs.empty:
            said = "no pair has logged training losses"
            yield Finding(measured=said, scale=each.scale, rule=rule)
            continue
        mean = mean_of(pairs["a"] - pairs["b"])
        low, high = mean.interval(INTERVAL)
        rates = ", ".join(f"{c['label'].iloc[0]} {number(c['lr'].iloc[0])}" for c in best)
        finding = Finding(
            INCONCLUSIVE,
            f"{in_nats(mean)} (n={len(pairs)})",
            f"best lr tried: {rates}",
            each.scale,
            mean.value,
            low,
            high,
            n=len(pairs),
            rule=rule,
        )
        if len(pairs) >= question.least:
            finding = finding.decided(mean.p_below(0), mean.p_above(0))
        yield unless_learned(finding, each.runs, *(c["final_val_loss"].mean() for c in best))


def _common_rates(each: Compared) -> Iterator[tuple[float, pd.DataFrame]]:
    """Yield each rate that both have, with the final losses `a` and `b` by seed."""
    for lr in sorted(set(each.a["lr"]) & set(each.b[0]["lr"])):
        cells = (cell[cell["lr"] == lr] for cell in (each.a, each.b[0]))
        losses = dict(zip("ab", map(by_seed, cells), strict=True))
        pairs = pd.DataFrame(losses).dropna()
        if len(pairs):
            yield lr, pairs


def _most_pairs(each: Compared) -> tuple[float, pd.DataFrame | None]:
    """Return the common rate with the most pairs, the shared one if several have as many."""
    shared = each.a["shared_lr"].iloc[0]
    rated = sorted(_common_rates(each), key=lambda at: (len(at[1]), at[0] == shared))
    return rated[-1] if rated else (math.nan, None)


def _differences(each: Compared, pairs: pd.DataFrame) -> tuple[Finding, Measured, bool]:
    """Return a finding without a decision, the mean difference, and whether no run diverged."""
    diverged = np.isinf(pairs)
    finite = pairs[~diverged.any(axis=1)]
    mean = mean_of(finite["a"] - finite["b"])
    low, high = mean.interval(INTERVAL)
    said = [f"{in_nats(mean)} (n={len(finite)})"] if len(finite) else []
    if diverged.any(axis=None):
        said.append(
            f"diverged: {int(diverged['a'].sum())} and, of the other, {int(diverged['b'].sum())} of"
            f" {len(pairs)}"
        )
    if len(finite) > 1 and math.isnan(mean.error):
        said.append("identical differences, so no test")
    finding = Finding(
        INCONCLUSIVE, ", ".join(said), "", each.scale, mean.value, low, high, n=len(finite)
    )
    return finding, mean, not diverged.any(axis=None)


def _needed(mean: Measured, published: float | None) -> int | None:
    """Return the pairs with which a test at LEVEL has 80 % power for a margin, if none differ."""
    if published is None or math.isnan(mean.error):
        return None
    deviation = mean.error * math.sqrt(mean.df + 1)
    quantiles = stats.norm.ppf(1 - LEVEL) + stats.norm.ppf(0.8)
    return math.ceil((quantiles * deviation / published) ** 2)


def _at_best_rate(cell: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the rate with the fewest divergences, then with the lowest mean loss."""
    ended = cell[cell["status"].isin(ENDED)]
    by_rate = ended.assign(diverged=ended["status"] == Status.DIVERGED).groupby("lr")
    rates = by_rate.agg({"diverged": "sum", "final_val_loss": "mean"})
    ranked = rates.sort_values(["diverged", "final_val_loss"])
    return ended[ended["lr"] == ranked.index[0]] if len(ranked) else ended


def _early_loss(results: Results, run: str) -> float:
    """Return the mean training loss over ln(step) in the first EARLY of a run's steps."""
    rows = results.metrics[results.metrics["run"] == run]
    steps = results.runs.loc[results.runs["run"] == run, "planned_steps"].iloc[0]
    rows = rows[rows["step"] <= EARLY * steps].dropna(subset="train_loss")
    if len(rows) < 2:
        return math.nan
    x = np.log(rows["step"].to_numpy(float))
    area = np.trapezoid(rows["train_loss"].to_numpy(float), x)
    return float(area / (x[-1] - x[0]))
