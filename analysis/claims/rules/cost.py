"""Rules on the time of a step and on the peak memory, which are measured."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.definitions import Question
from analysis.claims.selection import Compared, each_model
from analysis.claims.verdicts import (
    INCONCLUSIVE,
    INTERVAL,
    NOT_SUPPORTED,
    SUPPORTED,
    Finding,
)
from analysis.estimates.statistics import mean_of
from analysis.frames import Results, read_table, trained_together
from analysis.papers.numbers import load_paper

MIB = 2**20  # bytes in a MiB
ADAMW, POWERSTEP = "AdamW, fused", "PowerStep fp32"  # rows of step_cost.csv
_PAIRS = "comparison"  # the experiment whose runs are timed in pairs
_DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}


def step_time_share(results: Results, question: Question) -> Iterator[Finding]:
    """Judge which share of a training step PowerStep's update adds to that of fused AdamW.

    The forward and backward pass take 6 operations per parameter and token (Kaplan et al.,
    arXiv:2001.08361, section 2.1). So the share is Δt·F / (6·D), with Δt the update's extra time
    per parameter, F the machine's operations per second and D the tokens per device of the
    published training. Training attains less than F, which lowers the share. D counts each
    device as if it updated all parameters that a token passes through; the paper's parallel
    layouts split them.
    """
    rule = (
        "Supported if the upper quartile of the computed share is below"
        f" {question.margin:.0%} for every published model, not supported if the lower quartile is"
        f" above it for one. Inconclusive otherwise. {question.reason}"
    )
    found = _measured(results.folder / "step_cost.csv", ADAMW, POWERSTEP)
    if isinstance(found, Finding):
        yield found
        return
    row = found.loc[POWERSTEP]
    quartiles = row[[f"extra_ns_per_parameter{at}" for at in ("", "_low", "_high")]]
    per_token = quartiles.to_numpy(float) * row["gflops"] / 6
    tokens = _tokens_per_device()
    shares = pd.DataFrame({model: per_token / count for model, count in tokens.items()}).T
    largest, most = shares[2].idxmax(), max(tokens, key=tokens.get)
    value, low, high = (float(share) for share in shares.loc[largest])
    verdict = INCONCLUSIVE
    if high < question.margin:
        verdict = SUPPORTED
    elif (shares[1] > question.margin).any():
        verdict = NOT_SUPPORTED
    yield Finding(
        verdict,
        f"{quartiles.iloc[0]:+.3f} ns per parameter are {value:+.2%} [{low:+.2%}, {high:+.2%}] of a"
        f" step with {tokens[largest]:,.0f} tokens per device, the largest share, and"
        f" {shares.loc[most, 0]:+.4%} with {tokens[most]:,.0f}; in brackets quartiles",
        f"{_rounds(row)}, {row['gflops']:.0f} GFLOP/s",
        f"{row['parameters'] / 1e6:.3g}M parameters; {len(tokens)} published models",
        value,
        low,
        high,
        n=int(row["rounds"]),
        rule=rule,
    )


def throughput(results: Results, question: Question) -> Iterator[Finding]:
    """Judge whether a training step of `a` takes at most the margin longer than one of `b`.

    Compared are the runs of the experiment `comparison`, each with the other's of the same seed. A
    diverged run counts, because its steps took time too. Restored runs, whose machine may be
    another, count only if all are restored. A further finding describes the update alone.
    """
    rule = (
        f"Supported if the {INTERVAL:.0%} interval of the mean log ratio of step times, paired by"
        f" seed, is below +{question.margin:.0%}, not supported if it is above. Inconclusive"
        f" otherwise, and with fewer than {question.least} pairs. {question.reason}"
    )
    runs = trained_together(results.runs[results.runs["experiment"] == _PAIRS])
    compared = [*each_model(runs, question)]
    yield from (_whole_step(each, question, rule) for each in compared)
    if not compared:
        yield Finding()
    yield _update_alone(results.folder)


def peak_memory_saving(results: Results, question: Question) -> Iterator[Finding]:
    """Judge which share of the state that PowerStep saves is saved at the measured peak.

    The first finding is on its state in fp32, the second on int8.
    """
    rule = (
        "Supported if the peak of AdamW minus that of PowerStep is at least"
        f" {question.margin:.0%} of the difference of their states, not supported if it is less."
        f" {question.reason}"
    )
    for optimizer in ("powerstep", "powerstep-int8"):
        found = _measured(results.folder / "peak_memory.csv", "adamw", optimizer)
        yield found if isinstance(found, Finding) else _peak(found, optimizer, question, rule)


def _measured(path: Path, *optimizers: str) -> pd.DataFrame | Finding:
    """Return a study's rows by optimizer, or a finding that says what is missing."""
    if not path.exists():
        return Finding(measured=f"{path.name} is missing")
    rows = read_table(path).set_index("optimizer").reindex(optimizers)
    missing = rows.index[rows.isna().any(axis=1)]
    if len(missing):
        return Finding(measured=f"{path.name} has no measurement of {' and '.join(missing)}")
    return rows


def _tokens_per_device() -> dict[str, float]:
    """Return the tokens of a step per device, for each published model."""
    return {
        name: model["batch_size"] * model["context"] / model["devices"]
        for name, model in load_paper()["models"].items()
    }


def _whole_step(each: Compared, question: Question, rule: str) -> Finding:
    """Return the finding on the time of whole steps of one model."""
    logs = [_log_seconds(cell) for cell in (each.a, each.b[0])]
    differences = (logs[0] - logs[1]).dropna()
    n = len(differences)
    if not n:
        return Finding(measured="no common seed has ended runs", scale=each.scale, rule=rule)
    mean = mean_of(differences)
    margin = math.log1p(question.margin)
    value, low, high = (math.expm1(log) for log in (mean.value, *mean.interval(INTERVAL)))
    interval = "" if math.isnan(low) else f" [{low:+.1%}, {high:+.1%}]"
    finding = Finding(
        INCONCLUSIVE,
        f"{value:+.1%}{interval} in the time of a step (n={n})",
        "median step of each run; runs may share the machine",
        each.scale,
        value,
        low,
        high,
        n=n,
        rule=rule,
    )
    if n < question.least:
        return finding
    return finding.decided(mean.p_below(margin), mean.p_above(margin))


def _log_seconds(cell: pd.DataFrame) -> pd.Series:
    """Return ln(seconds per token) by seed; the mean over its runs at several learning rates."""
    known = cell.dropna(subset="tokens_per_second")
    return -np.log(known["tokens_per_second"].astype(float)).groupby(known["seed"]).mean()


def _update_alone(folder: Path) -> Finding:
    """Return a finding on the time of the update. It describes, so it has no verdict of its own."""
    found = _measured(folder / "step_cost.csv", ADAMW, POWERSTEP)
    if isinstance(found, Finding):
        return found
    row = found.loc[POWERSTEP]
    value, low, high = (float(row[f"ratio{at}"]) for at in ("", "_low", "_high"))
    return Finding(
        measured=f"the update alone takes {value:.2f} [{low:.2f}, {high:.2f}] times as long as that"
        " of fused AdamW; in brackets quartiles",
        protocol=_rounds(row),
        scale=f"{row['parameters'] / 1e6:.3g}M parameters",
        value=value,
        low=low,
        high=high,
        n=int(row["rounds"]),
        rule="The update alone describes; whole steps decide.",
    )


def _rounds(row: pd.Series) -> str:
    """Return how a row of step_cost.csv was measured, as text."""
    return f"{row['rounds']:.0f} rounds on {_DEVICES[row['device']]}, {row['threads']:.0f} threads"


def _peak(found: pd.DataFrame, optimizer: str, question: Question, rule: str) -> Finding:
    """Return the finding on the peak memory with one optimizer.

    Args:
        found: the rows of AdamW and of the optimizer in peak_memory.csv.
        optimizer: the optimizer.
        question: the question, with its margin.
        rule: the rule for the verdict, in words.
    """
    adamw, own = found.loc["adamw"], found.loc[optimizer]
    saved = {name: adamw[name] - own[name] for name in ("peak_bytes", "state_bytes")}
    share = saved["peak_bytes"] / saved["state_bytes"]
    extra = [row["first_step_extra_bytes"] / MIB for row in (own, adamw)]
    return Finding(
        SUPPORTED if share >= question.margin else NOT_SUPPORTED,
        f"{own['label']}: of {saved['state_bytes'] / MIB:.0f} MiB of state,"
        f" {saved['peak_bytes'] / MIB:.0f} MiB ({share:.0%}) are saved at the peak of"
        f" {adamw['peak_bytes'] / MIB:.0f} MiB; besides its state the first step leaves"
        f" {extra[0]:.0f} MiB in use, AdamW's {extra[1]:.0f}",
        f"one process each on {_DEVICES[own['device']]}, batch {own['batch_size']:.0f} ×"
        f" {own['context']:.0f} tokens",
        f"{own['model']}, {own['parameters'] / 1e6:.3g}M",
        float(share),
        n=1,
        rule=rule,
    )
