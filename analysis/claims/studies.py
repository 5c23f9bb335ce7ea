"""Findings that need no trained run: on counted optimizer state and on a synthetic problem."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Finding
from analysis.frames import Results, read_table
from analysis.paper import load_paper

TABLE_1_TOLERANCE = 0.1  # MiB: the last digit of the values in table 1


def claim_2(results: Results) -> Iterator[Finding]:
    """Judge claim 2: the ratio of AdamW's optimizer state to PowerStep's, for published models."""
    memory = read_table(results.folder / "memory.csv").pivot(
        index="model", columns="optimizer", values="state_bytes"
    )
    memory = memory.loc[[name for name in load_paper()["models"] if name in memory.index]]
    for optimizer, part, ratio in (
        ("powerstep", "fp32 state is half of AdamW's", 2.0),
        ("powerstep-int8", "int8 state is 1/7.76 of AdamW's", 8 / 1.03125),
    ):
        compared = memory.reindex(columns=["adamw", optimizer])
        ratios = compared["adamw"] / compared[optimizer]
        measured = ratios.dropna()
        met = bool(np.isclose(measured, ratio, rtol=1e-3).all())
        finding = Finding(
            2,
            part,
            measured=f"{measured.min():.4f} to {measured.max():.4f} times less",
            protocol="counted from the tensors that each optimizer allocates",
            scale=f"{len(measured)} models at their published sizes",
            value=measured.mean(),
            n=len(measured),
            rule=f"Supported if the ratio of every model is within 0.1 % of {ratio:.4f}, not"
            " supported if one is not, inconclusive if all known ratios are but some are missing.",
        )
        yield _of_counts(finding, met, len(ratios) - len(measured))


def table_1(results: Results) -> Finding:
    """Judge how close our count of optimizer state is to table 1, counted in the same way."""
    published = pd.DataFrame(load_paper()["state_mib_per_device"]).stack()
    memory = read_table(results.folder / "memory.csv")
    ours = memory.set_index(["optimizer", "model"])["mib_per_device_as_paper"]
    # Both are rounded to tenths, as printed. Differences of tenths are inexact in binary.
    difference = (ours.reindex(published.index).round(1) - published).abs().dropna()
    away = difference.max().round(1) if len(difference) else math.nan
    finding = Finding(
        3,
        "int8 state takes as much memory as in table 1",
        measured=f"at most {away:.1f} MiB from the published values",
        protocol="state per device, only of the routed experts where the paper counts only these",
        scale=f"{len(published.unstack(0))} models at their published sizes, 256 devices",
        value=away,
        n=len(difference),
        rule=f"Supported if every value, rounded to 0.1 MiB as in the paper, is within"
        f" {TABLE_1_TOLERANCE} MiB of the published one, not supported if one is not, inconclusive"
        " if all known values are but some are missing.",
    )
    return _of_counts(finding, away <= TABLE_1_TOLERANCE, len(published) - len(difference))


def claim_10(results: Results) -> Iterator[Finding]:
    """Judge claim 10: rate of convergence and floor of exact updates on a noisy problem."""
    fits = read_table(results.folder / "convergence_fits.csv")
    fits = fits[np.isclose(fits["beta"], 0.1)]
    if fits.empty:
        yield Finding(10, "squared gradient norm falls as 1/√T", measured="the fits are missing")
    for noise, of_noise in fits.groupby("noise", sort=False):
        exact = of_noise[of_noise["sigma"] == 0]
        noisy = of_noise[of_noise["sigma"] > 0].sort_values("sigma")
        if exact.empty or noisy.empty or of_noise.isna().any(axis=None):
            part = f"squared gradient norm falls as 1/√T, {noise} noise"
            yield Finding(10, part, measured="the fits are missing")
            continue
        least, most = noisy.iloc[0], noisy.iloc[-1]
        finding = Finding(
            10,
            f"squared gradient norm falls as 1/√T without a floor (v1), {noise} noise",
            measured="; ".join(
                f"σ = {row.sigma:g}: slope {row.slope:.2f}, floor {row.floor:.2g}"
                f" [{row.floor_low:.2g}, {row.floor_high:.2g}]"
                for row in noisy.itertuples()
            ),
            protocol="η/√t, exact updates, β = 0.1",
            scale=f"synthetic non-convex problem, {most['steps']:,} steps",
            value=most["floor"],
            ci95=(most["floor_high"] - most["floor_low"]) / 2,
            n=int(most["seeds"]),
        )
        has_floor = (noisy["floor_low"] > 0).any()
        falls = (noisy["slope_low"] <= -0.5).all()
        yield replace(
            finding,
            verdict=NOT_SUPPORTED if has_floor else SUPPORTED if falls else INCONCLUSIVE,
            rule="Not supported if the 95 % interval of the fitted floor lies above 0 at some noise"
            " level. Otherwise supported if, at every noise level, the 95 % interval of the fitted"
            " slope (of logarithms) reaches down to -1/2 or below, and else inconclusive.",
        )
        shrinks = least["floor_low"] > max(most["floor_high"], 0)
        yield replace(
            finding,
            part=f"squared gradient norm falls as 1/√T to a residual due to noise (v2), {noise}"
            " noise",
            verdict=NOT_SUPPORTED
            if (exact["floor_low"] > 0).any()
            else INCONCLUSIVE
            if shrinks
            else SUPPORTED,
            rule="Not supported if, without noise, the 95 % interval of the fitted floor lies above"
            " 0. Otherwise inconclusive if the interval at the weakest noise lies above 0 and above"
            " that at the strongest noise, and else supported. A zero residual also satisfies the"
            " bound.",
        )


def _of_counts(finding: Finding, met: bool, missing: int) -> Finding:
    """Return a finding on counted state with its verdict.

    Args:
        finding: the finding, with the number of counts as `n`.
        met: whether all of these counts agree with the paper.
        missing: number of further counts that are missing.
    """
    if not finding.n:
        return replace(finding, measured="no state could be counted for it", scale="")
    verdict = (INCONCLUSIVE if missing else SUPPORTED) if met else NOT_SUPPORTED
    measured = finding.measured + (f", {missing} missing" if missing else "")
    return replace(finding, verdict=verdict, measured=measured)
