"""Rules on the effective steps of PowerStep, and descriptions of what rounding does to them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.definitions import Question
from analysis.claims.selection import Compared, each_model, where
from analysis.claims.verdicts import INCONCLUSIVE, INTERVAL, NOT_SUPPORTED, SUPPORTED, Finding
from analysis.estimates.effective_steps import (
    at_fractions,
    largest_momentum,
    quantiles,
    read_logged,
)
from analysis.estimates.statistics import Measured
from analysis.frames import Results
from experiments.runs.effective_steps import (
    ALL,
    BETA,
    COMPARISONS_FILE,
    HISTOGRAMS_FILE,
    ROUNDING_FILE,
)
from experiments.runs.summary import Status

_DECADE = 10.0
_SIZES = 3  # numbers of parameters that a growth with size needs
_AGREE = "Inconclusive if the runs disagree."


def effective_step_from_below(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether every effective step is above its bound, and the median hardly drifts.

    Clipping bounds ‖g‖ by C, so |m| ≤ C/(1-γ) and D ≥ (C/(1-γ))^(β-1).
    """
    for each, steps in _by_model(results, question):
        bound = largest_momentum(each.a) ** (BETA - 1)
        lowest = steps.groupby("run")[0.0].min()
        late = steps[steps["step"] > each.a["warmup_steps"].iloc[0]]
        medians = late.groupby(["run", "layer"])[0.5]
        drifts = medians.max() / medians.min()
        is_steady = drifts.groupby("run").max() < _DECADE
        yield Finding(
            _unanimous((lowest >= bound * (1 - 1e-6)) & is_steady),
            f"smallest D/η {lowest.min():.3g}, bound {bound:.3g}; after the warm-up the median"
            f" drifts by a factor of {drifts.max():.2g} ({drifts.idxmax()[1]}), of"
            f" {drifts.median():.2g} in the median layer type",
            "all logged steps and layer types",
            each.scale,
            float(lowest.min()),
            n=len(lowest),
            rule="Supported if no effective step is below (C/(1-γ))^(β-1)·η, with gradients clipped"
            " to C, and the median of every layer type drifts by less than a decade after the"
            f" warm-up; else not supported. {_AGREE}",
        )


def effective_step_from_above(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the largest effective step grows with the number of parameters.

    Fitted is the exponent of max D / median D over the number of coordinates, over model sizes.
    """
    rule = (
        f"Not supported if the {INTERVAL:.0%} interval of the exponent of max/median over the"
        f" number of parameters lies above 0, supported if it lies below 0.1. It needs {_SIZES}"
        " sizes. The momentum changes its sign, so an exponent of 1-β is expected."
    )
    found = [
        (steps[(steps["layer"] == ALL) & (steps["at"] == 1)], each)
        for each, steps in _by_model(results, question, at=True)
    ]
    if not found:
        return
    ends = pd.concat([end for end, _ in found])
    ratios = ends[1.0] / ends[0.5]
    said = ", ".join(f"{each.model} {(end[1.0] / end[0.5]).max():.3g}" for end, each in found)
    finding = Finding(
        INCONCLUSIVE,
        f"max D / median D: {said}",
        "end of training",
        "; ".join(each.scale for _, each in found),
        n=len(ends),
        rule=rule,
    )
    sizes = (ends["count"] - ends["zeros"]).astype(float)
    if ends["count"].nunique() >= _SIZES:  # zeros differ between the seeds of one size
        (slope, _), covariance = np.polyfit(np.log(sizes), np.log(ratios), 1, cov=True)
        exponent = Measured(float(slope), float(np.sqrt(covariance[0, 0])), len(ends) - 2)
        low, high = exponent.interval(INTERVAL)
        supported, refuted = exponent.p_below(0.1), exponent.p_above(0)
        finding = replace(
            finding.adding(f"exponent {slope:.2f} [{low:.2f}, {high:.2f}]"),
            verdict=NOT_SUPPORTED if low > 0 else SUPPORTED if high < 0.1 else INCONCLUSIVE,
            value=float(slope),
            low=low,
            high=high,
            p_supported=supported,
            p_refuted=refuted,
        )
    yield finding


def displacement(results: Results, question: Question) -> Iterator[Finding]:
    """Describe the largest displacement η|m|^β, and how the tail of the effective step moves."""
    for each, rows in _logged(results, question):
        moved = quantiles(rows, "powerstep", [1.0], "displacement")
        bound = largest_momentum(each.a) ** BETA
        tails = at_fractions(quantiles(rows, "powerstep", [0.5, 0.999]))
        tails = tails.assign(tail=tails[0.999] / tails[0.5]).groupby(["run", "layer"])["tail"]
        yield Finding(
            measured=f"the largest displacement is {moved[1.0].max():.3g}·η, bound {bound:.3g}·η;"
            f" the 99.9 % quantile of D over its median changes by a factor of up to"
            f" {(tails.max() / tails.min()).max():.2g} from 10 % to 100 % of training",
            scale=each.scale,
            n=rows["run"].nunique(),
        )


def effective_step_as_adams(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the effective steps of PowerStep and Adam agree on the same gradients.

    `options: {spearman: …, iqr: …}` are the smallest rank correlation and the largest interquartile
    range of the log10 ratio.
    """
    least, most = (question.options[name] for name in ("spearman", "iqr"))
    for each, rows in _logged(results, question, COMPARISONS_FILE):
        rows = rows[rows["layer"] != ALL]
        spearman, iqr = rows["spearman"], rows["log_ratio_iqr"]
        is_close = (spearman >= least) & (iqr <= most)
        yield Finding(
            _unanimous(is_close.groupby(rows["run"]).all()),
            f"rank correlation {spearman.min():.2f} to {spearman.max():.2f} (median"
            f" {spearman.median():.2f}); interquartile range of the log10 ratio {iqr.min():.2f} to"
            f" {iqr.max():.2f} (median {iqr.median():.2f})",
            "every layer type, at 10, 50 and 100 % of training",
            each.scale,
            float(spearman.min()),
            n=rows["run"].nunique(),
            rule=f"Supported if in every layer type, at 10, 50 and 100 % of training, the rank"
            f" correlation is at least {least:g} and the interquartile range of the log10 ratio"
            f" at most {most:g}; else not supported. {question.reason} {_AGREE}",
        )


def rounding_errors(results: Results, question: Question) -> Iterator[Finding]:
    """Describe what rounding the momentum to `options: {format: …}` does to the update."""
    for each, rows in _logged(results, question, ROUNDING_FILE):
        name = question.options["format"]
        rows = where(rows, layer=ALL, format=name)
        last = rows[rows["step"] == rows["planned_steps"]]
        once, kept = (last[last["accumulated"] == flag] for flag in (False, True))
        yield Finding(
            measured=f"one rounding to {name} changes the update by {once['u_error'].mean():.2%},"
            f" flips {once['sign_flips'].mean():.2%} of its signs and zeroes"
            f" {once['zero_codes'].mean():.2%} of the momentum; kept over the steps, it changes the"
            f" update by {kept['u_error'].mean():.2%} and flips {kept['sign_flips'].mean():.2%}",
            protocol="the same gradients, end of training",
            scale=each.scale,
            value=float(kept["u_error"].mean()),
            n=last["run"].nunique(),
        )


def _by_model(
    results: Results, question: Question, *, at: bool = False
) -> Iterator[tuple[Compared, pd.DataFrame]]:
    """Yield the runs and the quantiles of PowerStep's D/η of each model.

    With `at`, only those at 10, 50 and 100 % of training.
    """
    for each, rows in _logged(results, question):
        yield each, quantiles(at_fractions(rows) if at else rows, "powerstep", [0.0, 0.5, 1.0])


def _logged(
    results: Results, question: Question, file: str = HISTOGRAMS_FILE
) -> Iterator[tuple[Compared, pd.DataFrame]]:
    """Yield the completed runs of each model and what they logged, the largest model first."""
    runs = where(results.runs, experiment="effective_steps", status=Status.COMPLETED)
    for each in each_model(runs, question):
        rows = read_logged(replace(results, runs=each.runs), file)
        if len(rows):
            yield each, rows


def _unanimous(holds: pd.Series) -> str:
    """Return the verdict on a statement that holds, or does not, in each run."""
    if holds.all():
        return SUPPORTED
    return INCONCLUSIVE if holds.any() else NOT_SUPPORTED
