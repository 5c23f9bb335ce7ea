"""Rules on the gap between optimizers over the size of the model."""

from collections.abc import Iterator
from dataclasses import replace

from analysis.claims.definitions import Question
from analysis.claims.selection import unless_learned, where
from analysis.claims.verdicts import INCONCLUSIVE, INTERVAL, Finding
from analysis.estimates.ladder import ladder
from analysis.estimates.statistics import Measured
from analysis.estimates.trend import Trend, fit_trend
from analysis.frames import Results

_AIMS = {"124M": 1.24e8, "8B": 8e9}  # parameters of the paper's smallest and largest model


def gap_trend(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether the gap of `a` to `b` grows by less than the margin per decade of parameters.

    The models are those of the profile's ladder, each at its own best learning rates
    (analysis.estimates.trend).
    """
    margin, (other,) = question.margin, question.b
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the trend lies below {margin:g} nats per"
        f" decade, not supported if it lies above. Inconclusive with fewer than {question.least}"
        f" sizes. {question.reason}"
    ).rstrip()
    rungs = ladder(results.runs, question.a["optimizer"], other["optimizer"])
    trend = fit_trend([rung.parameters for rung in rungs], [rung.gap for rung in rungs])
    if trend is None:
        return
    sizes = f"{trend.parameters.min():,.0f} to {trend.parameters.max():,.0f} parameters"
    low, high = trend.slope.interval(INTERVAL)
    finding = Finding(
        measured=_text(trend),
        protocol="own best lr at each size",
        scale=f"{len(rungs)} sizes, {sizes}",
        value=trend.slope.value,
        low=low,
        high=high,
        n=len(rungs),
        rule=rule,
    ).decided(trend.slope.p_below(margin), trend.slope.p_above(margin))
    outside = [rung.model for rung in rungs if not all(rung.inside.values())]
    if outside:
        finding = finding.adding(f"optimum not inside the sweep: {', '.join(outside)}")
    if len(rungs) < question.least:
        finding = replace(finding, verdict=INCONCLUSIVE)
    smallest = rungs[0]
    losses = [loss.value for loss in smallest.losses.values()]
    yield unless_learned(finding, where(results.runs, model=smallest.model), *losses)


def _text(trend: Trend) -> str:
    first, last = trend.gaps[0], trend.gaps[-1]
    texts = [
        f"the gap changes by {_shown(trend.slope)} nats per decade of parameters",
        f"from {first.value:+.3f} to {last.value:+.3f} nats",
        f"lack of fit p = {trend.lack_of_fit:.2g}",
        *(f"{name} extrapolated {_shown(trend.at(size))}" for name, size in _AIMS.items()),
    ]
    return "; ".join(texts)


def _shown(measured: Measured) -> str:
    low, high = measured.interval(INTERVAL)
    return f"{measured.value:+.3f} [{low:+.3f}, {high:+.3f}]"
