"""The paper's eleven claims, each tested against the measurements.

There is one function for each claim. It yields a finding for each part, model and protocol. The
verdicts and their rules are defined in analysis.claims.verdicts, the paper's statements in
paper.yaml.
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
from experiments.runs.summary import Status

SLOWDOWN = 1.05  # largest ratio to AdamW's step time that counts as not noticeable
EARLY = 0.2  # fraction of a run's steps after which its early loss is taken
_AUTHORS = {
    name: f"{name} as implemented by the paper's authors" for name in ("AdamS", "pbSGDM", "Stacey")
}


def find(results: Results) -> list[Finding]:
    """Return the findings on all claims, in their order."""
    return [finding for claim in _CLAIMS for finding in claim(results)]


def by_claim(findings: list[Finding]) -> list[Claim]:
    """Return every claim of the paper with the findings on it."""
    return [
        Claim(number, **claim, parts=tuple(f for f in findings if f.claim == number))
        for number, claim in load_paper()["claims"].items()
    ]


def claim_1(results: Results) -> Iterator[Finding]:
    """Judge claim 1: PowerStep's final loss against AdamW's, under both protocols.

    For its large models the paper keeps PowerStep's state in int8 (table 6).
    """
    finding = Finding(1, "PowerStep's final loss is not above AdamW's")
    yield from both_protocols(results, finding, "powerstep", "adamw", NOT_ABOVE)
    large = where(results.runs[is_shared(results.runs)], experiment="large_scale")
    part = "PowerStep's final loss with int8 state is not above AdamW's"
    finding = Finding(1, part, protocol="shared lr")
    int8, adamw = {"optimizer": "powerstep-int8"}, {"optimizer": "adamw"}
    yield from each_model(large, finding, int8, adamw, NOT_ABOVE)


def claim_3(results: Results) -> Iterator[Finding]:
    """Judge claim 3: int8 state against fp32 state, stability, naive int8 AdamW, and memory."""
    runs = results.runs
    finding = Finding(3, "PowerStep's final loss with int8 state is not above that with fp32 state")
    yield from both_protocols(results, finding, "powerstep-int8", "powerstep", NOT_ABOVE)
    yield never_diverges(runs, Finding(3, "PowerStep int8 stays stable"), "powerstep-int8")
    yield from collapses(runs, Finding(3, "naive int8 AdamW collapses"), "adamw-int8")
    yield table_1(results)


def claim_4(results: Results) -> Iterator[Finding]:
    """Judge claim 4: β = 0.1 against 0 and 0.2, and the late collapse of β = 0."""
    runs = _varied(results.runs, "beta")
    for other in (0.0, 0.2):
        finding = Finding(4, f"final loss with β = 0.1 is below that with β = {other:g}")
        yield from each_model(runs, finding, {"number": 0.1}, {"number": other}, LOWER)
    finding = Finding(
        4,
        "β = 0 collapses late",
        rule=f"Supported if every seed diverged or ended more than {MARGIN} nats above its lowest"
        " validation loss, inconclusive if only some did or a run is missing. Otherwise not"
        " tested, because the models are smaller and the runs shorter than the paper's.",
    )
    zero = runs[runs["number"] == 0]
    for model, cell in zero.groupby("model", sort=False):
        lowest = cell.set_index("seed")["best_val_loss"].astype(float)
        rise = by_seed(cell) - lowest.fillna(
            0
        )  # no lowest loss if it diverged before the first validation
        yield counted(replace(finding, scale=scale(zero, model)), rise, MARGIN, NOT_TESTED)
    if zero.empty:
        yield finding


def claim_5(results: Results) -> Iterator[Finding]:
    """Judge claim 5: γ = 0.85 and 0.95 against 0.9."""
    runs = _varied(results.runs, "gamma")
    for other in (0.85, 0.95):
        finding = Finding(5, f"final losses with γ = {other:g} and γ = 0.9 are equivalent")
        yield from each_model(runs, finding, {"number": other}, {"number": 0.9}, EQUIVALENT)


def claim_6(results: Results) -> Iterator[Finding]:
    """Judge claim 6: the loss above the best rate's, averaged over the sweep, against AdamW's.

    Only learning rates that the sweep has for both optimizers count, and models with several.
    """
    sweep = results.runs[is_sweep(results.runs)]
    finding = Finding(
        6,
        "PowerStep's mean loss over the sweep minus its lowest is not above AdamW's",
        protocol="the same learning rates for both",
    )
    both = sweep[sweep["optimizer"].isin(["powerstep", "adamw"])]
    optimizers = both.groupby(["model", "lr"])["optimizer"].transform("nunique")
    both = both[optimizers == 2]
    both = both[both.groupby("model")["lr"].transform("nunique") > 1]
    for model, of_model in both.groupby("model", sort=False):
        excess = {}
        for optimizer in ("powerstep", "adamw"):
            cells = where(of_model, optimizer=optimizer)
            losses = pd.DataFrame({lr: by_seed(cell) for lr, cell in cells.groupby("lr")})
            excess[optimizer] = losses.mean(axis=1, skipna=False) - losses.min(axis=1)
        asked = replace(finding, scale=scale(of_model, model))
        yield judge(asked, NOT_ABOVE, excess["powerstep"], excess["adamw"])
    if both.empty:
        yield finding


def claim_7(results: Results) -> Iterator[Finding]:
    """Judge claim 7: pbSGDM against AdamW, and the stability of AdamS and SignSGD."""
    for optimizer, label in (
        ("pbsgdm", "pbSGDM"),
        ("pbsgdm-decay-in-momentum", _AUTHORS["pbSGDM"]),
    ):
        finding = Finding(7, f"final loss of {label} is above AdamW's")
        yield from both_protocols(results, finding, optimizer, "adamw", ABOVE)
    large = where(results.runs, model="qwen3-8b")
    for optimizer, label in (("adams-bias-corrected", _AUTHORS["AdamS"]), ("signsgd", "SignSGD")):
        yield from collapses(large, Finding(7, f"{label} is unstable at 8B"), optimizer)


def claim_8(results: Results) -> Iterator[Finding]:
    """Judge claim 8: PowerStep against Stacey, early and at the end, at each learning rate."""
    runs = where(results.runs, experiment="stacey").copy()
    metrics = dict(iter(results.metrics.groupby("run", observed=True)))
    runs["early_loss"] = [
        _early_loss(metrics.get(row.run), row.planned_steps) for row in runs.itertuples()
    ]
    ours = {"optimizer": "powerstep"}
    for optimizer, label in (
        ("stacey", "Stacey"),
        ("stacey-dual-in-direction", _AUTHORS["Stacey"]),
    ):
        for lr in sorted(runs["lr"].unique()):
            at_lr, theirs = where(runs, lr=lr), {"optimizer": optimizer}
            part = f"final losses of {label} and PowerStep are equivalent"
            end = Finding(8, part, protocol=f"lr {number(lr)}")
            yield from each_model(at_lr, end, theirs, ours, EQUIVALENT)
            part = f"PowerStep's loss is below that of {label} after {EARLY:.0%} of the steps"
            early = Finding(8, part, protocol=f"lr {number(lr)}")
            yield from each_model(at_lr, early, ours, theirs, LOWER, "early_loss")
    if runs.empty:
        yield Finding(
            8, "final losses of Stacey and PowerStep are equivalent, PowerStep is lower early"
        )


def claim_9(results: Results) -> Iterator[Finding]:
    """Judge claim 9: the time of a step against AdamW's."""
    runs = where(results.runs, experiment="comparison").copy()
    runs["log_time"] = -np.log(runs["tokens_per_second"].astype(float))
    runs["status"] = runs["status"].replace(
        Status.DIVERGED, Status.COMPLETED
    )  # their steps took time too
    finding = Finding(
        9,
        f"a step of PowerStep takes at most {SLOWDOWN - 1:.0%} longer than one of AdamW",
        protocol="median over the steps of a run; the runs share one machine",
    )
    ours, adamw = {"optimizer": "powerstep"}, {"optimizer": "adamw"}
    margin = math.log(SLOWDOWN)
    for judged in each_model(runs, finding, ours, adamw, NOT_ABOVE, "log_time", margin):
        ratio = math.exp(judged.value)
        yield replace(
            judged,
            measured=f"{ratio:.3f} times AdamW's time (n={judged.n}, p = {judged.p_value:.2g})"
            if judged.n
            else judged.measured,
            value=ratio,
            ci95=math.nan,
            rule="Supported if a one-sided paired t-test over seeds shows the mean logarithm of the"
            f" ratio to be below log {SLOWDOWN}, not supported if one shows it to be above (each"
            f" p < {LEVEL}), inconclusive otherwise.",
        )


def claim_11(results: Results) -> Iterator[Finding]:
    """Judge claim 11: stability with int4 state, and its final loss against fp32 state."""
    yield never_diverges(results.runs, Finding(11, "PowerStep int4 stays stable"), "powerstep-int4")
    finding = Finding(
        11, "PowerStep's final loss with int4 state is not above that with fp32 state"
    )
    yield from both_protocols(results, finding, "powerstep-int4", "powerstep", NOT_ABOVE)


def _varied(runs: pd.DataFrame, argument: str) -> pd.DataFrame:
    """Return the runs that vary an argument of PowerStep, with the value as column `number`."""
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
