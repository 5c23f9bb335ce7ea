"""Rules that compare optimizers at their own best learning rates."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pandas as pd

from analysis.claims.definitions import Question
from analysis.claims.selection import (
    Compared,
    each_model,
    in_nats,
    runs_of,
    unless_learned,
    where,
)
from analysis.claims.verdicts import INCONCLUSIVE, INTERVAL, Finding
from analysis.estimates.optimum import Optima, fit_optima
from analysis.estimates.statistics import Measured, exp
from analysis.estimates.tokens import TokenRatio, token_slope
from analysis.frames import Results

_Judge = Callable[[Compared, Optima, Finding], Finding]
_PARITY = (0.9, 1.1)  # token ratios that are called parity
_NEAR_BEST = 0.05  # nats above the lowest loss that still count as near it, for widths


def token_ratio(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether `a` needs no more tokens for the same loss than each cell of `b`.

    The token ratio ρ (analysis.estimates.tokens) is supported above the margin. With
    `options: {both_sides: true}` it must lie below 1/margin as well.
    """
    low, high = question.margin, 1 / question.margin
    both = question.options.get("both_sides", False)
    within = f"above {low:g}" + (f" and below {high:.3g}" if both else "")
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the token ratio lies {within}, not supported"
        " if it lies wholly outside. Inconclusive if the slope of AdamW's loss over tokens is not"
        " measured (the experiment `tokens`)."
    )

    def judge(each: Compared, optima: Optima, finding: Finding) -> Finding:
        slope = token_slope(_lengths(results.runs, each.model))
        gaps = [optima.difference({"a": 1, name: -1}) for name in optima.cells if name != "a"]
        if slope is None:
            return finding.adding("; ".join(map(in_nats, gaps)) + "; dL/d ln(tokens) unknown")
        ratios = [TokenRatio(gap, slope) for gap in gaps]
        supports = [ratio.p_above(low) for ratio in ratios]
        refutes = [ratio.p_below(low) for ratio in ratios]
        if both:
            supports += [ratio.p_below(high) for ratio in ratios]
            refutes += [ratio.p_above(high) for ratio in ratios]
        worst = max(ratios, key=lambda ratio: abs(math.log(ratio.value)) if both else -ratio.value)
        ends = worst.interval(INTERVAL)
        texts = [_ratio_text(ratio) for ratio in ratios]
        finding = finding.adding("; ".join(texts))
        return replace(finding, value=worst.value, low=ends[0], high=ends[1]).decided(
            max(supports),
            min(1.0, len(ratios) * min(refutes)),  # Bonferroni over the cells of b
        )

    yield from _at_own_rates(results, question, rule, judge)


def gap_above(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether `a` ends above `b` by more than the margin, in nats per token."""
    margin = question.margin
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the difference lies above {margin:g} nats,"
        " not supported if it lies below."
    )

    def judge(_: Compared, optima: Optima, finding: Finding) -> Finding:
        gap = optima.difference({"a": 1, "b": -1})
        low, high = gap.interval(INTERVAL)
        finding = replace(finding.adding(in_nats(gap)), value=gap.value, low=low, high=high)
        return finding.decided(gap.p_above(margin), gap.p_below(margin))

    yield from _at_own_rates(results, question, rule, judge)


def curvature(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the loss rises alike around the best rates of `a` and `b`.

    Compared is the width, in octaves, of the range of rates within _NEAR_BEST nats of the lowest
    loss: it is √(_NEAR_BEST / c) to each side, so the ratio of widths is √(c_b / c_a).
    """
    margin = question.margin
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the ratio of widths lies between"
        f" {1 / margin:.2g} and {margin:g}, not supported if it lies wholly outside."
    )

    def judge(_: Compared, optima: Optima, finding: Finding) -> Finding:
        a, b = (optima.cells[name].curvature for name in ("a", "b"))
        error = math.hypot(a.error / a.value, b.error / b.value) / 2
        log = Measured(math.log(b.value / a.value) / 2, error, optima.df)
        widths = [2 * math.sqrt(_NEAR_BEST / each.value) for each in (a, b)]
        low, high = map(exp, log.interval(INTERVAL))
        ratio = exp(log.value)
        text = (
            f"within {_NEAR_BEST} nats of the lowest loss over {widths[0]:.2g} octaves, the other"
            f" over {widths[1]:.2g}: ratio {ratio:.2f} [{low:.2f}, {high:.2f}]"
        )
        finding = replace(finding.adding(text), value=ratio, low=low, high=high)
        return _within(finding, log, -math.log(margin), math.log(margin))

    yield from _at_own_rates(results, question, rule, judge)


def best_lr_ratio(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the best rate of `b` over that of `a` is in `options: {low: …, high: …}`."""
    low, high = (question.options[name] for name in ("low", "high"))
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the ratio of best learning rates lies between"
        f" {low:g} and {high:g}, not supported if it lies wholly outside."
    )

    def judge(_: Compared, optima: Optima, finding: Finding) -> Finding:
        a, b = (optima.cells[name].log2_lr for name in ("a", "b"))
        log = Measured(b.value - a.value, math.hypot(a.error, b.error), optima.df)
        ends = [2**end for end in log.interval(INTERVAL)]
        ratio = 2**log.value
        text = f"{ratio:.2f} times smaller [{ends[0]:.2f}, {ends[1]:.2f}]"
        finding = replace(finding.adding(text), value=ratio, low=ends[0], high=ends[1])
        return _within(finding, log, math.log2(low), math.log2(high))

    yield from _at_own_rates(results, question, rule, judge)


def _at_own_rates(
    results: Results, question: Question, rule: str, judge: _Judge
) -> Iterator[Finding]:
    """Yield a finding for each model; `judge` completes it where the optima are known."""
    rule += (
        " Inconclusive if an optimum is not inside its sweep by more than its standard error, or if"
        f" a cell has fewer than {question.least} seeds. {question.reason}"
    ).rstrip()
    for each in each_model(results.runs, question):
        names = ["a", "b", *(f"b{i}" for i in range(2, len(each.b) + 1))]
        sides = [_tuned(results.runs, side, question) for side in (each.a, *each.b)]
        cells = dict(zip(names, sides, strict=True))
        optima = fit_optima(cells)
        finding = Finding(
            INCONCLUSIVE, "", "own best lr", each.scale, n=_seeds(cells.values()), rule=rule
        )
        if optima is None:
            lowest = [_lowest(cell) for cell in cells.values()]
            said = "no optimum: fewer than three complete rates near the best, or no minimum"
            yield unless_learned(finding.adding(said), each.runs, *lowest)
            continue
        rates = [
            f"{cell['label'].iloc[0]} {2 ** optima.cells[name].log2_lr.value:.2g}"
            for name, cell in cells.items()
        ]
        finding = judge(each, optima, replace(finding, protocol=f"own best lr: {', '.join(rates)}"))
        outside = [name for name, cell in optima.cells.items() if not cell.is_inside]
        if outside:
            labels = dict.fromkeys(cells[name]["label"].iloc[0] for name in outside)
            finding = finding.adding(f"optimum not inside the sweep: {', '.join(labels)}")
        if outside or finding.n < question.least:
            finding = replace(
                finding, verdict=INCONCLUSIVE, p_supported=math.nan, p_refuted=math.nan
            )
        losses = [cell.loss.value for cell in optima.cells.values()]
        yield unless_learned(finding, each.runs, *losses)


def _lengths(runs: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return AdamW's runs of a model, of all lengths of training."""
    of_model = where(runs, model=model)
    cells = {"optimizer": "adamw"}, {"optimizer": "adamw", "argument": "training.steps"}
    return pd.concat([runs_of(of_model, cell) for cell in cells]).drop_duplicates("run")


def _tuned(runs: pd.DataFrame, side: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Return the runs of a side with the best value of the argument `options: {tuned: …}`."""
    argument = question.options.get("tuned")
    if argument is None:
        return side
    model, optimizer = side["model"].iloc[0], side["optimizer"].iloc[0]
    varied = where(runs, model=model, optimizer=optimizer, argument=argument)
    cells = [side, *(cell.drop_duplicates("run") for _, cell in varied.groupby("value"))]
    fits = [(fit_optima({"own": cell}), cell) for cell in cells]
    fitted = [(fit.cells["own"].loss.value, i) for i, (fit, _) in enumerate(fits) if fit]
    return cells[min(fitted)[1]] if fitted else side


def _seeds(cells: Iterable[pd.DataFrame]) -> int:
    """Return the smallest number of seeds of a cell."""
    return min(cell["seed"].nunique() for cell in cells)


def _lowest(cell: pd.DataFrame) -> float:
    return float(cell.groupby("lr")["final_val_loss"].mean().min())


def _ratio_text(ratio: TokenRatio) -> str:
    low, high = ratio.interval(INTERVAL)
    parity = ", parity" if low >= _PARITY[0] and high <= _PARITY[1] else ""
    interval = f"[{low:.2f}, {high:.2f}]{parity}"
    return f"token ratio {ratio.value:.2f} {interval} ({in_nats(ratio.gap)})"


def _within(finding: Finding, value: Measured, low: float, high: float) -> Finding:
    """Decide whether a value is between two bounds, by two one-sided tests each."""
    return finding.decided(
        max(value.p_above(low), value.p_below(high)),
        min(value.p_below(low), value.p_above(high)),
    )
