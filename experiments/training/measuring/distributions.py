"""Histograms of magnitudes, comparisons of effective steps, and errors of rounding."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from experiments.runs.effective_steps import (
    ALL,
    BINS,
    JOINT_BINS,
    JOINT_HIGH,
    JOINT_LOW,
    MANTISSA_BITS,
)
from powerstep.functional import signed_power

Row = dict[str, object]
_SAMPLE = 2**14  # most coordinates of a layer type whose effective steps are compared


def histograms(x: Tensor, layers: Mapping[str, slice]) -> list[Row]:
    """Return a histogram of magnitudes for each layer type, and the sum of all for the layer ALL.

    Args:
        x: shape (n,), fp32; its signs are ignored.
        layers: the range of each layer type, which together cover x.
    """
    found = {layer: _counted(x[part]) for layer, part in layers.items()}
    counts = torch.stack([counts for counts, *_ in found.values()]).sum(dim=0)
    _, zeros, smallest, largest = zip(*found.values(), strict=True)
    found = {ALL: (counts, sum(zeros), min(smallest), max(largest))} | found
    return [{"layer": layer} | _row(*each) for layer, each in found.items()]


def _counted(x: Tensor) -> tuple[Tensor, int, float, float]:
    """Return the counts in all bins, the zeros, and the smallest and largest nonzero magnitude."""
    x = x.abs()
    counts = torch.bincount(x.view(torch.int32) >> (23 - MANTISSA_BITS), minlength=BINS)
    zeros = len(x) - int(x.count_nonzero())
    counts[0] -= zeros  # denormals below 2^-128 remain
    nonzero = x[x > 0] if zeros else x
    if not len(nonzero):
        return counts, zeros, math.inf, -math.inf
    return counts, zeros, float(nonzero.min()), float(nonzero.max())


def _row(counts: Tensor, zeros: int, smallest: float, largest: float) -> Row:
    """Return a row of HISTOGRAMS_FILE.

    Returns:
        count (elements, zeros included), zeros, denormals, smallest and largest (of the nonzero
        magnitudes; infinite without any), first_bin, and counts from that bin to the last one in
        use.
    """
    used = counts.nonzero().flatten()
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, -1)
    return {
        "count": int(counts.sum()) + zeros,
        "zeros": zeros,
        "denormals": int(counts[: 2**MANTISSA_BITS].sum()),
        "smallest": smallest,
        "largest": largest,
        "first_bin": first,
        "counts": counts[first : last + 1].tolist(),
    }


def comparison(
    momentum: Tensor, denominator: Tensor, update: Tensor, gamma: float, beta: float
) -> Row:
    """Compare the effective steps of PowerStep and Adam, coordinate by coordinate.

    Args:
        momentum: PowerStep's m, shape (n,).
        denominator: Adam's √v̂ + ε, shape (n,).
        update: Adam's m̂ / (√v̂ + ε), shape (n,).
        gamma: PowerStep's γ. Its m is a sum of 1/(1-γ) gradients, and Adam's an average.
        beta: PowerStep's β.

    Returns:
        spearman, the rank correlation of the effective steps; log_ratio_median and log_ratio_iqr,
        median and interquartile range of the log10 of their ratio; cosine of the two updates; and
        counts, the joint histogram of log2|m| (rows) and log2 of the denominator (columns), of
        JOINT_BINS² counts. Coordinates with m = 0 are left out of all but the cosine, and of many
        coordinates a sample of at most _SAMPLE is taken, evenly spaced.
    """
    cosine = torch.cosine_similarity(signed_power(momentum, beta), update, dim=0)
    used = momentum != 0
    m, d = momentum[used].abs(), denominator[used]
    if not len(m):
        return {}
    stride = -(-len(m) // _SAMPLE)
    log_m, log_d = m[::stride].log2(), d[::stride].log2()
    scale = JOINT_BINS / (JOINT_HIGH - JOINT_LOW)
    row, column = (
        ((log - JOINT_LOW) * scale).long().clamp_(0, JOINT_BINS - 1) for log in (log_m, log_d)
    )
    # log10 of |m|^(β-1)/(1-γ) over 1/(√v̂ + ε)
    log_ratio = ((beta - 1) * log_m + log_d) * math.log10(2) - math.log10(1 - gamma)
    quartiles = log_ratio.quantile(log_ratio.new_tensor([0.25, 0.5, 0.75]))
    return {
        "spearman": float(torch.corrcoef(torch.stack([_ranks(log_m), _ranks(log_d)]))[0, 1]),
        "log_ratio_median": float(quartiles[1]),
        "log_ratio_iqr": float(quartiles[2] - quartiles[0]),
        "cosine": float(cosine),
        "counts": torch.bincount(row * JOINT_BINS + column, minlength=JOINT_BINS**2).tolist(),
    }


def rounding_errors(exact: Tensor, rounded: Tensor, beta: float) -> Row:
    """Return the errors that rounding of the momentum causes in m and in u = Φ_β(m).

    Args:
        exact: m, shape (n,), fp32.
        rounded: the rounded m, shape (n,), fp32.
        beta: PowerStep's β.

    Returns:
        m_error and u_error, ‖difference‖/‖exact‖; u_cosine, the cosine of both updates; sign_flips
        and zero_codes, the shares of the nonzero m whose sign flips or that become 0; and
        amplification, ‖difference of u‖/‖difference of m‖.
    """
    u, v = signed_power(exact, beta), signed_power(rounded, beta)
    m_error, u_error = (rounded - exact).norm(), (v - u).norm()
    used = exact != 0
    nonzero = max(1, int(used.sum()))
    return {
        "m_error": float(m_error / exact.norm()),
        "u_error": float(u_error / u.norm()),
        "u_cosine": float(torch.cosine_similarity(u, v, dim=0)),
        "sign_flips": int((exact * rounded < 0).sum()) / nonzero,
        "zero_codes": int((used & (rounded == 0)).sum()) / nonzero,
        "amplification": float(u_error / m_error),
    }


def _ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().double()
