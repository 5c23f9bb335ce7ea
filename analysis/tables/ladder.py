"""The tables of the ladder: the gap at each size, and its trend over size."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.estimates.ladder import BASELINE, COMPARED, Rung, label_of, ladder
from analysis.estimates.statistics import Measured
from analysis.estimates.trend import Trend, constant, fit_trend, power_law
from analysis.frames import Results
from analysis.tables.cells import Table
from analysis.text import MISSING

_LEVEL = 0.95
_AIMS = {"10M": 1e7, "124M": 1.24e8, "8B": 8e9}  # parameters at which the trend is extrapolated


def ladder_table(results: Results) -> Table:
    """Return the gap of each optimizer at each size, in nats per token, per byte, and in tokens."""
    rows, shown, names = [], [], []
    for optimizer in COMPARED:
        for rung in ladder(results.runs, optimizer):
            rows.append(_numbers(optimizer, rung))
            shown.append(
                {"optimizer": label_of(results.runs, optimizer), **_cells(optimizer, rung)}
            )
            names.append(rung.model)
    return pd.DataFrame(rows), pd.DataFrame(shown, index=pd.Index(names, name="model"))


def trend_table(results: Results) -> Table:
    """Return the trend of each gap over size, how well a line fits, and its extrapolations."""
    rows = []
    for optimizer in COMPARED:
        rungs = ladder(results.runs, optimizer)
        sizes, gaps = [rung.parameters for rung in rungs], [rung.gap for rung in rungs]
        if trend := fit_trend(sizes, gaps):
            rows += [{"optimizer": optimizer, **row} for row in _trend_rows(trend, sizes, gaps)]
        for name in (BASELINE, optimizer) if optimizer == COMPARED[0] else (optimizer,):
            rates = fit_trend(sizes, [rung.log2_lrs[name] for rung in rungs])
            rows += [{"optimizer": name, **_rate_row(rates)}] if rates else []
    numbers = pd.DataFrame(rows, columns=["optimizer", "what", "value", "low", "high", "note"])
    shown = pd.DataFrame(
        {
            "quantity": numbers["what"],
            "value": numbers["value"].map("{:+.4f}".format),
            "95 %": [_interval(row.low, row.high) for row in numbers.itertuples()],
            "note": numbers["note"],
        }
    )
    labels = [label_of(results.runs, optimizer) for optimizer in numbers["optimizer"]]
    shown = shown.set_index(pd.Index(labels, name="optimizer"))
    return numbers, shown


def _numbers(optimizer: str, rung: Rung) -> dict[str, object]:
    low, high = rung.gap.interval(_LEVEL)
    row = {
        "optimizer": optimizer,
        "model": rung.model,
        "parameters": rung.parameters,
        "tokens": rung.tokens,
        "gap": rung.gap.value,
        "gap_low": low,
        "gap_high": high,
        "gap_per_byte": rung.gap.value / rung.bytes_per_token,
        "slope": rung.slope.value if rung.slope else None,
        "token_ratio": rung.ratio.value if rung.ratio else None,
    }
    for name in (BASELINE, optimizer):
        side = "baseline" if name == BASELINE else "own"
        row |= {
            f"{side}_loss": rung.losses[name].value,
            f"{side}_lr": 2 ** rung.log2_lrs[name].value,
            f"{side}_inside": rung.inside[name],
        }
    return row


def _cells(optimizer: str, rung: Rung) -> dict[str, str]:
    gap = rung.gap
    half = gap.interval(_LEVEL)[1] - gap.value
    return {
        "parameters": f"{rung.parameters:,.0f}",
        "tokens per parameter": f"{rung.tokens / rung.parameters:.0f}",
        "loss [best lr]": _loss_at(rung, optimizer),
        "AdamW's": _loss_at(rung, BASELINE),
        "gap, nats per token": f"{gap.value:+.3f}" + (f" ± {half:.3f}" if half == half else ""),
        "per byte": f"{gap.value / rung.bytes_per_token:+.4f}",
        "token ratio": _ratio(rung),
    }


def _loss_at(rung: Rung, optimizer: str) -> str:
    """Return the fitted lowest loss with its rate, marked if that is not inside the sweep."""
    edge = "" if rung.inside[optimizer] else ", edge"
    return f"{rung.losses[optimizer].value:.3f} [{2 ** rung.log2_lrs[optimizer].value:.2g}{edge}]"


def _ratio(rung: Rung) -> str:
    if rung.ratio is None:
        return MISSING
    return f"{rung.ratio.value:.2f} {_interval(*rung.ratio.interval(_LEVEL), digits=2, sign='')}"


def _trend_rows(
    trend: Trend, sizes: Sequence[float], gaps: Sequence[Measured]
) -> Iterator[dict[str, object]]:
    fit = f"lack of fit p = {trend.lack_of_fit:.2g}, scatter between sizes {trend.scatter:.3f}"
    yield _row("nats per decade of parameters", trend.slope, fit)
    without = [_slope_without(i, sizes, gaps) for i in range(len(sizes))]
    if known := [slope for slope in without if slope is not None]:
        yield {
            "what": "the same without one of the sizes",
            "value": trend.slope.value,
            "low": min(known),
            "high": max(known),
            "note": "range over the size that is left out, not an interval",
        }
    yield _row("gap if it is the same at all sizes", constant(gaps), "")
    power = power_law(sizes, gaps)
    for name, size in _AIMS.items():
        other = f"{power[0] * size ** power[1]:+.3f}" if power else "none, as gaps differ in sign"
        yield _row(f"gap at {name}, extrapolated", trend.at(size), f"by a power law {other}")


def _rate_row(trend: Trend) -> dict[str, object]:
    """Return how the best learning rate changes with size, in octaves."""
    aims = ", ".join(f"{name} {2 ** trend.at(size).value:.1g}" for name, size in _AIMS.items())
    note = f"lack of fit p = {trend.lack_of_fit:.2g}; extrapolated: {aims}"
    return _row("octaves of the best lr per decade of parameters", trend.slope, note)


def _row(what: str, measured: Measured, note: str) -> dict[str, object]:
    low, high = measured.interval(_LEVEL)
    return {"what": what, "value": measured.value, "low": low, "high": high, "note": note}


def _slope_without(left_out: int, sizes: Sequence[float], gaps: Sequence[Measured]) -> float | None:
    kept = [i for i in range(len(sizes)) if i != left_out]
    trend = fit_trend([sizes[i] for i in kept], [gaps[i] for i in kept])
    return trend.slope.value if trend else None


def _interval(low: float, high: float, *, digits: int = 4, sign: str = "+") -> str:
    if np.isnan(low) or np.isnan(high):
        return MISSING
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
