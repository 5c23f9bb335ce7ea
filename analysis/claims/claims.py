"""The paper's eleven claims, each held against what was measured.

One function a claim; each returns its findings, one for each part, model and protocol. The rules
and the set of verdicts stand in analysis.claims.verdicts; what the paper says in paper.yaml.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims.findings import (
    both_protocols,
    collapses,
    counted,
    each_model,
    models_with,
    never_diverges,
    scale,
    where,
)
from analysis.claims.studies import claim_2, claim_10, table_1
from analysis.claims.verdicts import (
    ABOVE,
    EQUIVALENT,
    LEVEL,
    LOWER,
    NOT_ABOVE,
    NOT_TESTED,
    Claim,
    Finding,
    judge,
)
from analysis.frames import Results
from analysis.losses import by_seed, is_shared, is_sweep
from analysis.paper import load_paper
from analysis.statistics import MARGIN
from analysis.text import number

SLOWDOWN = 1.05  # of AdamW's step time, up to which a cost counts as not noticeable
EARLY = 0.2  # of a run's steps
_READING = {
    name: f"{name} as the paper's authors read it" for name in ("AdamS", "pbSGDM", "Stacey")
}


def find(results: Results) -> list[Finding]:
    """Return all findings, in the order of the claims."""
    return [finding for claim in _CLAIMS for finding in claim(results)]


def by_claim(findings: list[Finding]) -> list[Claim]:
    """Return every claim of the paper with its findings."""
    return [
        Claim(number, **claim, parts=tuple(f for f in findings if f.claim == number))
        for number, claim in load_paper()["claims"].items()
    ]


def claim_1(results: Results) -> Iterator[Finding]:
    """Return the final loss of PowerStep against AdamW's, under both protocols.

    The paper's large models have PowerStep's state in int8 (table 6).
    """
    finding = Finding(1, "final loss is not above AdamW's")
    yield from both_protocols(results, finding, "powerstep", "adamw", NOT_ABOVE)
    large = where(results.runs[is_shared(results.runs)], experiment="large_scale")
    finding = Finding(1, "final loss with int8 state is not above AdamW's", protocol="shared lr")
    int8, adamw = {"optimizer": "powerstep-int8"}, {"optimizer": "adamw"}
    yield from each_model(large, finding, int8, adamw, NOT_ABOVE)


def claim_3(results: Results) -> Iterator[Finding]:
    """Return int8 state against fp32 state: loss, stability, naive int8 AdamW, memory."""
    runs = results.runs
    finding = Finding(3, "int8 state ends no higher than fp32 state")
    yield from both_protocols(results, finding, "powerstep-int8", "powerstep", NOT_ABOVE)
    yield never_diverges(runs, Finding(3, "PowerStep int8 stays stable"), "powerstep-int8")
    yield from collapses(runs, Finding(3, "naive int8 AdamW collapses"), "adamw-int8")
    yield table_1(results)


def claim_4(results: Results) -> Iterator[Finding]:
    """Return β = 0.1 against 0 and 0.2, and whether β = 0 collapses late."""
    runs = _varied(results.runs, "beta")
    for other in (0.0, 0.2):
        finding = Finding(4, f"β = 0.1 ends below β = {other:g}")
        yield from each_model(runs, finding, {"number": 0.1}, {"number": other}, LOWER)
    finding = Finding(
        4,
        "β = 0 collapses late",
        rule=f"Supported if each seed diverged or ended more than {MARGIN} nats above its lowest"
        " validation loss, inconclusive if some did; not tested where none did, since models are"
        " smaller and runs shorter than the paper's.",
    )
    zero = runs[runs["number"] == 0]
    for model, cell in zero.groupby("model", sort=False):
        lowest = cell.set_index("seed")["best_val_loss"].astype(float)
        rise = by_seed(cell) - lowest.fillna(0)  # one that diverged at once has no lowest
        yield counted(replace(finding, scale=scale(zero, model)), rise, MARGIN, NOT_TESTED)
    if zero.empty:
        yield finding


def claim_5(results: Results) -> Iterator[Finding]:
    """Return γ = 0.85 and 0.95 against 0.9."""
    runs = _varied(results.runs, "gamma")
    for other in (0.85, 0.95):
        finding = Finding(5, f"γ = {other:g} ends as γ = 0.9")
        yield from each_model(runs, finding, {"number": other}, {"number": 0.9}, EQUIVALENT)


def claim_6(results: Results) -> Iterator[Finding]:
    """Return how much a wrong learning rate costs PowerStep and AdamW, over the whole sweep."""
    sweep = results.runs[is_sweep(results.runs)]
    finding = Finding(
        6,
        "mean loss over the sweep, less its own best, is not above AdamW's",
        protocol="the same learning rates for both",
    )
    models = models_with(sweep, {"optimizer": "powerstep"}, {"optimizer": "adamw"})
    for model in models:
        excess = {}
        for optimizer in ("powerstep", "adamw"):
            cells = where(sweep, model=model, optimizer=optimizer)
            losses = pd.DataFrame({lr: by_seed(cell) for lr, cell in cells.groupby("lr")})
            excess[optimizer] = losses.mean(axis=1, skipna=False) - losses.min(axis=1)
        asked = replace(finding, scale=scale(sweep, model))
        yield judge(asked, NOT_ABOVE, excess["powerstep"], excess["adamw"])
    if not models:
        yield finding


def claim_7(results: Results) -> Iterator[Finding]:
    """Return pbSGDM against AdamW, and the stability of AdamS and SignSGD."""
    for optimizer, label in (
        ("pbsgdm", "pbSGDM"),
        ("pbsgdm-decay-in-momentum", _READING["pbSGDM"]),
    ):
        finding = Finding(7, f"{label} ends above AdamW")
        yield from both_protocols(results, finding, optimizer, "adamw", ABOVE)
    large = where(results.runs, model="qwen3-8b")
    for optimizer, label in (("adams-bias-corrected", _READING["AdamS"]), ("signsgd", "SignSGD")):
        yield from collapses(large, Finding(7, f"{label} is unstable at 8B"), optimizer)


def claim_8(results: Results) -> Iterator[Finding]:
    """Return PowerStep against Stacey, at the end and early, at each learning rate."""
    runs = where(results.runs, experiment="stacey").copy()
    metrics = dict(iter(results.metrics.groupby("run", observed=True)))
    runs["early_loss"] = [
        _early_loss(metrics.get(row.run), row.planned_steps) for row in runs.itertuples()
    ]
    ours = {"optimizer": "powerstep"}
    for optimizer, label in (
        ("stacey", "Stacey"),
        ("stacey-dual-in-direction", _READING["Stacey"]),
    ):
        for lr in sorted(runs["lr"].unique()):
            at_lr, theirs = where(runs, lr=lr), {"optimizer": optimizer}
            end = Finding(8, f"{label} ends as PowerStep", protocol=f"lr {number(lr)}")
            yield from each_model(at_lr, end, theirs, ours, EQUIVALENT)
            early = f"PowerStep is below {label} after {EARLY:.0%} of the steps"
            finding = Finding(8, early, protocol=f"lr {number(lr)}")
            yield from each_model(at_lr, finding, ours, theirs, LOWER, "early_loss")
    if runs.empty:
        yield Finding(8, "Stacey ends as PowerStep, which is below it early")


def claim_9(results: Results) -> Iterator[Finding]:
    """Return the time of a step against AdamW's."""
    runs = where(results.runs, experiment="comparison").copy()
    runs["log_time"] = -np.log(runs["tokens_per_second"].astype(float))
    runs["status"] = runs["status"].replace("diverged", "completed")  # its steps took their time
    finding = Finding(
        9,
        f"a step takes at most {SLOWDOWN - 1:.0%} longer than AdamW's",
        protocol="median over a run's steps, runs side by side on one machine",
    )
    ours, adamw = {"optimizer": "powerstep"}, {"optimizer": "adamw"}
    margin = math.log(SLOWDOWN)
    for judged in each_model(runs, finding, ours, adamw, NOT_ABOVE, "log_time", margin):
        ratio = math.exp(judged.value)
        yield replace(
            judged,
            measured=f"{ratio:.3f} times AdamW's (n={judged.n}, p = {judged.p_value:.2g})"
            if judged.n
            else judged.measured,
            value=ratio,
            ci95=math.nan,
            rule="Supported if a one-sided paired t-test puts the logarithm of the ratio below that"
            f" of {SLOWDOWN}, not supported if one puts it above (each p < {LEVEL}), inconclusive"
            " otherwise.",
        )


def claim_11(results: Results) -> Iterator[Finding]:
    """Return int4 state against fp32 state: loss and stability."""
    yield never_diverges(results.runs, Finding(11, "PowerStep int4 stays stable"), "powerstep-int4")
    finding = Finding(11, "int4 state ends no higher than fp32 state")
    yield from both_protocols(results, finding, "powerstep-int4", "powerstep", NOT_ABOVE)


def _varied(runs: pd.DataFrame, argument: str) -> pd.DataFrame:
    """Return the runs that vary an argument of PowerStep, with its value as `number`."""
    varied = where(runs, experiment="sensitivity", optimizer="powerstep", argument=argument)
    return varied.assign(number=pd.to_numeric(varied["value"], errors="coerce"))


def _early_loss(metrics: pd.DataFrame | None, steps: int) -> float:
    """Return the validation loss at the first validation after EARLY of a run's steps."""
    if metrics is None:
        return math.nan
    late_enough = metrics[(metrics["step"] >= EARLY * steps) & metrics["val_loss"].notna()]
    return late_enough["val_loss"].iloc[0] if len(late_enough) else math.nan


_CLAIMS: tuple[Callable[[Results], Iterator[Finding]], ...] = (
    claim_1,
    claim_2,
    claim_3,
    claim_4,
    claim_5,
    claim_6,
    claim_7,
    claim_8,
    claim_9,
    claim_10,
    claim_11,
)
