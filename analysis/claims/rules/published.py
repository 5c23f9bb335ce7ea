"""Descriptions of the paper's own numbers, which need no run."""

from collections.abc import Iterator

from analysis.claims.definitions import Question
from analysis.claims.verdicts import Finding
from analysis.frames import Results
from analysis.papers.trend import paper_trend


def published_trend(results: Results, question: Question) -> Iterator[Finding]:
    """Describe how the gap of PowerStep to AdamW in the paper's table 4 grows with model size."""
    trend = paper_trend()
    yield Finding(
        measured=f"in the paper's table 4 the gap to AdamW grows by {trend.slope:+.4f} ±"
        f" {trend.half_width:.4f} nats per decade of parameters (95 %; R² = {trend.r_squared:.3f},"
        f" p = {trend.p_value:.1g}; all six in the order of their sizes, p = 1/720)",
        protocol="data, lr and tokens per parameter change with the size, one seed a point",
        scale="six models, 124M to 8B",
        value=trend.slope,
        p_supported=trend.p_value,
        n=6,
    )
