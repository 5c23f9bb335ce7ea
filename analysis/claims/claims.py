"""The paper's eleven claims, each held against what was measured.

One function a claim; each returns its findings, one for each part, model and protocol. The rules
and the set of verdicts stand in analysis.claims.verdicts; what the paper says in paper.yaml.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims.verdicts import (
    ABOVE,
    EQUIVALENT,
    INCONCLUSIVE,
    LEVEL,
    LOWER,
    NOT_ABOVE,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    Claim,
    Finding,
    Rule,
    judge,
)
from analysis.frames import ENDED, Results, provenance, read_table
from analysis.losses import best_lr, by_seed
from analysis.paper import load_paper
from analysis.statistics import MARGIN
from analysis.tables.write import show_lr
from analysis.text import markdown, number
from experiments.files import atomic

SCOPE = (
    "A claim is supported if all parts of it that were tested are, and not supported if one of them"
    " is not. Verdicts hold at the scale that is named beside them; the paper's models have 124M to"
    " 235B parameters."
)
COLLAPSE = 0.5  # nats above AdamW's final loss from which a run that did not diverge has collapsed
SLOWDOWN = 1.05  # of AdamW's step time, up to which a cost counts as not noticeable
EARLY = 0.2  # of a run's steps
TABLE_1_DIGIT = 0.1  # MiB
_READING = {
    name: f"{name} as the paper's authors read it" for name in ("AdamS", "pbSGDM", "Stacey")
}


def write_claims(results: Results, folder: Path) -> None:
    """Write `claims.csv`, one row a finding, and `claims.md`, a verdict for each claim."""
    findings = find(results)
    with atomic(folder / "claims.csv") as path:
        claims_frame(findings).to_csv(path, index=False)
    with atomic(folder / "claims.md") as path:
        path.write_text(_markdown(findings, results.runs), encoding="utf-8")


def find(results: Results) -> list[Finding]:
    """Return all findings, in the order of the claims."""
    return [finding for claim in _CLAIMS for finding in claim(results)]


def by_claim(findings: list[Finding]) -> list[Claim]:
    """Return every claim of the paper with its findings."""
    return [
        Claim(number, **claim, parts=tuple(f for f in findings if f.claim == number))
        for number, claim in load_paper()["claims"].items()
    ]


def claims_frame(findings: list[Finding]) -> pd.DataFrame:
    """Return one row a finding, with the claim's statement and what the paper reports."""
    claims = load_paper()["claims"]
    rows = [claims[finding.claim] | asdict(finding) for finding in findings]
    first = ["claim", "statement", "paper", "part", "protocol", "scale", "measured"]
    last = ["value", "ci95", "p_value", "n", "verdict", "rule"]
    return pd.DataFrame(rows)[first + last]


def claim_1(results: Results) -> Iterator[Finding]:
    """Return the final loss of PowerStep against AdamW's, under both protocols.

    The paper's large models have PowerStep's state in int8 (table 6).
    """
    finding = Finding(1, "final loss is not above AdamW's")
    yield from _both_protocols(results, finding, "powerstep", "adamw", NOT_ABOVE)
    large = _where(results.runs, experiment="large_scale")
    finding = Finding(1, "final loss with int8 state is not above AdamW's", protocol="shared lr")
    int8, adamw = {"optimizer": "powerstep-int8"}, {"optimizer": "adamw"}
    yield from _each_model(large, finding, int8, adamw, NOT_ABOVE)


def claim_2(results: Results) -> Iterator[Finding]:
    """Return the ratio of state memory to AdamW's, counted on each published model."""
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
            protocol="counted on the tensors each optimizer allocates",
            scale=f"{len(measured)} models at their published sizes",
            value=measured.mean(),
            n=len(measured),
            rule=f"Supported if the ratio is within 0.1 % of {ratio:.4f} for every model.",
        )
        yield _of_counts(finding, met, len(ratios) - len(measured))


def claim_3(results: Results) -> Iterator[Finding]:
    """Return int8 state against fp32 state: loss, stability, naive int8 AdamW, memory."""
    runs = results.runs
    finding = Finding(3, "int8 state ends no higher than fp32 state")
    yield from _both_protocols(results, finding, "powerstep-int8", "powerstep", NOT_ABOVE)
    yield _never_diverges(runs, Finding(3, "PowerStep int8 stays stable"), "powerstep-int8")
    yield from _collapses(runs, Finding(3, "naive int8 AdamW collapses"), "adamw-int8")
    yield _table_1(results)


def claim_4(results: Results) -> Iterator[Finding]:
    """Return β = 0.1 against 0 and 0.2, and whether β = 0 collapses late."""
    runs = _varied(results.runs, "beta")
    for other in (0.0, 0.2):
        finding = Finding(4, f"β = 0.1 ends below β = {other:g}")
        yield from _each_model(runs, finding, {"number": 0.1}, {"number": other}, LOWER)
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
        yield _counted(replace(finding, scale=_scale(zero, model)), rise, MARGIN, NOT_TESTED)
    if zero.empty:
        yield finding


def claim_5(results: Results) -> Iterator[Finding]:
    """Return γ = 0.85 and 0.95 against 0.9."""
    runs = _varied(results.runs, "gamma")
    for other in (0.85, 0.95):
        finding = Finding(5, f"γ = {other:g} ends as γ = 0.9")
        yield from _each_model(runs, finding, {"number": other}, {"number": 0.9}, EQUIVALENT)


def claim_6(results: Results) -> Iterator[Finding]:
    """Return how much a wrong learning rate costs PowerStep and AdamW, over the whole sweep."""
    sweep = results.runs[results.runs["experiment"] == "learning_rate"]
    finding = Finding(
        6,
        "mean loss over the sweep, less its own best, is not above AdamW's",
        protocol="the same learning rates for both",
    )
    models = _models(sweep, {"optimizer": "powerstep"}, {"optimizer": "adamw"})
    for model in models:
        excess = {}
        for optimizer in ("powerstep", "adamw"):
            cells = _where(sweep, model=model, optimizer=optimizer)
            losses = pd.DataFrame({lr: by_seed(cell) for lr, cell in cells.groupby("lr")})
            excess[optimizer] = losses.mean(axis=1, skipna=False) - losses.min(axis=1)
        asked = replace(finding, scale=_scale(sweep, model))
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
        yield from _both_protocols(results, finding, optimizer, "adamw", ABOVE)
    large = _where(results.runs, model="qwen3-8b")
    for optimizer, label in (("adams-bias-corrected", _READING["AdamS"]), ("signsgd", "SignSGD")):
        yield from _collapses(large, Finding(7, f"{label} is unstable at 8B"), optimizer)


def claim_8(results: Results) -> Iterator[Finding]:
    """Return PowerStep against Stacey, at the end and early, at each learning rate."""
    runs = _where(results.runs, experiment="stacey").copy()
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
            at_lr, theirs = _where(runs, lr=lr), {"optimizer": optimizer}
            end = Finding(8, f"{label} ends as PowerStep", protocol=f"lr {number(lr)}")
            yield from _each_model(at_lr, end, theirs, ours, EQUIVALENT)
            early = f"PowerStep is below {label} after {EARLY:.0%} of the steps"
            finding = Finding(8, early, protocol=f"lr {number(lr)}")
            yield from _each_model(at_lr, finding, ours, theirs, LOWER, "early_loss")
    if runs.empty:
        yield Finding(8, "Stacey ends as PowerStep, which is below it early")


def claim_9(results: Results) -> Iterator[Finding]:
    """Return the time of a step against AdamW's."""
    runs = _where(results.runs, experiment="comparison").copy()
    runs["log_time"] = -np.log(runs["tokens_per_second"].astype(float))
    runs["status"] = runs["status"].replace("diverged", "completed")  # its steps took their time
    finding = Finding(
        9,
        f"a step takes at most {SLOWDOWN - 1:.0%} longer than AdamW's",
        protocol="median over a run's steps, runs side by side on one machine",
    )
    ours, adamw = {"optimizer": "powerstep"}, {"optimizer": "adamw"}
    margin = math.log(SLOWDOWN)
    for judged in _each_model(runs, finding, ours, adamw, NOT_ABOVE, "log_time", margin):
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


def claim_10(results: Results) -> Iterator[Finding]:
    """Return the rate and the floor of exact updates on a noisy synthetic problem."""
    fits = read_table(results.folder / "convergence_fits.csv")
    fits = fits[np.isclose(fits["beta"], 0.1)]
    if fits.empty:
        yield Finding(10, "falls as 1/√T", measured="fits are missing")
    for noise, of_noise in fits.groupby("noise", sort=False):
        exact = of_noise[of_noise["sigma"] == 0]
        noisy = of_noise[of_noise["sigma"] > 0].sort_values("sigma")
        if exact.empty or noisy.empty or of_noise.isna().any(axis=None):
            yield Finding(10, f"falls as 1/√T, {noise} noise", measured="fits are missing")
            continue
        least, most = noisy.iloc[0], noisy.iloc[-1]
        finding = Finding(
            10,
            f"falls as 1/√T without a floor (v1), {noise} noise",
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
            rule="Not supported if at one noise level the 95 % interval of the fitted floor lies"
            " above 0; supported if at none and every fitted slope of the logarithms is -1/2 or"
            " below within its interval; inconclusive otherwise.",
        )
        shrinks = least["floor_low"] > max(most["floor_high"], 0)
        yield replace(
            finding,
            part=f"falls as 1/√T to a residual that comes of the noise (v2), {noise} noise",
            verdict=NOT_SUPPORTED
            if (exact["floor_low"] > 0).any()
            else INCONCLUSIVE
            if shrinks
            else SUPPORTED,
            rule="Not supported if there is a floor without noise, inconclusive if a floor at the"
            " weakest noise lies above that at the strongest, supported otherwise: a bound is kept"
            " where no residual is left too.",
        )


def claim_11(results: Results) -> Iterator[Finding]:
    """Return int4 state against fp32 state: loss and stability."""
    yield _never_diverges(
        results.runs, Finding(11, "PowerStep int4 stays stable"), "powerstep-int4"
    )
    finding = Finding(11, "int4 state ends no higher than fp32 state")
    yield from _both_protocols(results, finding, "powerstep-int4", "powerstep", NOT_ABOVE)


def _both_protocols(
    results: Results, finding: Finding, a: str, b: str, rule: Rule
) -> Iterator[Finding]:
    """Judge optimizer `a` against `b` on each model, at the shared learning rate and their own."""
    runs = results.runs[results.runs["argument"] == ""]
    shared = runs[runs["lr"] == runs["shared_lr"]]
    own = replace(finding, protocol="own best lr", measured="no sweep of both in this profile")
    at_shared = replace(finding, protocol="shared lr")
    yield from _each_model(shared, at_shared, {"optimizer": a}, {"optimizer": b}, rule)
    best = best_lr(runs)
    models = _models(best, {"optimizer": a}, {"optimizer": b})
    for model in models:
        chosen = {name: _where(best, model=model, optimizer=name).iloc[0] for name in (a, b)}
        sweep = _where(runs, model=model, experiment="learning_rate")
        losses = [
            by_seed(_where(sweep, optimizer=name, lr=row["lr"])) for name, row in chosen.items()
        ]
        rates = ", ".join(f"{row['label']} {show_lr(row)}" for row in chosen.values())
        asked = replace(own, protocol=f"own best lr: {rates}", scale=_scale(sweep, model))
        yield _within_sweep(judge(asked, rule, *losses), rule, chosen[a]["edge"], chosen[b]["edge"])
    if not models:
        yield own


def _within_sweep(finding: Finding, rule: Rule, a_at_edge: bool, b_at_edge: bool) -> Finding:
    """Leave open what a better learning rate, beyond the edge of a sweep, could turn around.

    Args:
        finding: judged at the best rates of `a` and `b`.
        rule: by which it was.
        a_at_edge: whether the best rate of `a` is an edge of its sweep, so that it may end lower.
        b_at_edge: the same of `b`.
    """
    finding = replace(
        finding,
        rule=f"{finding.rule} Inconclusive too where a better rate, beyond the edge of a sweep,"
        " could turn it around.",
    )
    lower_a_undoes = (finding.verdict == SUPPORTED) == (rule is ABOVE)
    is_open = a_at_edge if lower_a_undoes else b_at_edge
    return replace(finding, verdict=INCONCLUSIVE) if is_open else finding


def _each_model(
    runs: pd.DataFrame,
    finding: Finding,
    a: dict[str, Any],
    b: dict[str, Any],
    rule: Rule,
    column: str = "final_val_loss",
    margin: float = MARGIN,
) -> Iterator[Finding]:
    """Judge the runs where `a` holds against those where `b` does, on each model that has both."""
    models = _models(runs, a, b)
    for model in models:
        of_model = _where(runs, model=model)
        losses = [by_seed(_where(of_model, **cell), column) for cell in (a, b)]
        asked = replace(finding, scale=_scale(of_model, model))
        if finding.protocol == "shared lr":
            asked = replace(asked, protocol=f"shared lr {number(of_model['lr'].iloc[0])}")
        yield judge(asked, rule, *losses, margin)
    if not models:
        yield finding


def _counted(finding: Finding, above: pd.Series, threshold: float, absent: str) -> Finding:
    """Complete a finding by how many seeds lie above a threshold: all, some, or none of them.

    Args:
        finding: what is asked, and where.
        above: by seed; inf where a run diverged, NaN where it cannot be told.
        threshold: in nats per token.
        absent: the verdict where no seed does.
    """
    known = above.dropna()
    count, n, unknown = int((known > threshold).sum()), len(known), len(above) - len(known)
    verdict = INCONCLUSIVE
    if not unknown and n:
        verdict = SUPPORTED if count == n else INCONCLUSIVE if count else absent
    return replace(
        finding,
        verdict=verdict,
        measured=f"{count} of {n} runs" + (f", {unknown} missing" if unknown else ""),
        value=count / n if n else math.nan,
        n=n,
    )


def _never_diverges(runs: pd.DataFrame, finding: Finding, optimizer: str) -> Finding:
    """Complete a finding by how many of an optimizer's runs diverged, whatever the experiment."""
    ended = _where(runs, optimizer=optimizer).drop_duplicates("run")
    ended = ended[ended["status"].isin(ENDED)]
    finding = replace(finding, rule="Supported if no run of it diverged, not supported if one did.")
    if ended.empty:
        return finding
    count, n = int((ended["status"] == "diverged").sum()), len(ended)
    return replace(
        finding,
        verdict=NOT_SUPPORTED if count else SUPPORTED,
        measured=f"{count} of {n} runs diverged",
        protocol=_rates(ended),
        scale=_scales(ended),
        value=count / n,
        n=n,
    )


def _collapses(runs: pd.DataFrame, finding: Finding, optimizer: str) -> Iterator[Finding]:
    """Complete a finding by how often an optimizer ended far above AdamW, on each model."""
    finding = replace(
        finding,
        rule=f"Supported if each seed diverged or ended more than {COLLAPSE} nats above AdamW with"
        " that seed and learning rate, inconclusive if some did, not supported if none did.",
    )
    shared = runs[(runs["argument"] == "") & (runs["lr"] == runs["shared_lr"])]
    models = _models(shared, {"optimizer": optimizer}, {"optimizer": "adamw"})
    for model in models:
        cell, adamw = (
            by_seed(_where(shared, model=model, optimizer=name)) for name in (optimizer, "adamw")
        )
        asked = replace(finding, protocol="shared lr", scale=_scale(shared, model))
        yield _counted(asked, cell - adamw.reindex(cell.index), COLLAPSE, NOT_SUPPORTED)
    if not models:
        yield finding


def _table_1(results: Results) -> Finding:
    """Return how far our count of state is from table 1's, counted in the same way."""
    published = pd.DataFrame(load_paper()["state_mib_per_device"]).stack()
    memory = read_table(results.folder / "memory.csv")
    ours = memory.set_index(["optimizer", "model"])["mib_per_device_as_paper"]
    # Both as they are printed, in tenths, whose differences are not exact in binary.
    difference = (ours.reindex(published.index).round(1) - published).abs().dropna()
    away = difference.max().round(1) if len(difference) else math.nan
    finding = Finding(
        3,
        "int8 state takes the memory of table 1",
        measured=f"at most {away:.1f} MiB from the published values",
        protocol="state per device, of the routed experts alone where the paper counts these",
        scale=f"{len(published.unstack(0))} models at their published sizes, 256 devices",
        value=away,
        n=len(difference),
        rule=f"Supported if every value, rounded to 0.1 MiB as in the paper, is within"
        f" {TABLE_1_DIGIT} MiB of the published one.",
    )
    return _of_counts(finding, away <= TABLE_1_DIGIT, len(published) - len(difference))


def _of_counts(finding: Finding, met: bool, missing: int) -> Finding:
    """Judge a finding on counted state; with counts missing it is not supported or inconclusive.

    Args:
        finding: with n, the number of counts.
        met: whether all of these are as the paper has them.
        missing: counts that there should be too.
    """
    if not finding.n:
        return replace(finding, measured="no optimizer of it could be counted", scale="")
    verdict = (INCONCLUSIVE if missing else SUPPORTED) if met else NOT_SUPPORTED
    measured = finding.measured + (f", {missing} missing" if missing else "")
    return replace(finding, verdict=verdict, measured=measured)


def _models(runs: pd.DataFrame, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the models that have runs of both cells."""
    has_b = set(_where(runs, **b)["model"])
    return [model for model in _where(runs, **a)["model"].unique() if model in has_b]


def _where(frame: pd.DataFrame, **equal: Any) -> pd.DataFrame:
    for column, value in equal.items():
        frame = frame[frame[column] == value]
    return frame


def _varied(runs: pd.DataFrame, argument: str) -> pd.DataFrame:
    """Return the runs that vary an argument of PowerStep, with its value as `number`."""
    varied = _where(runs, experiment="sensitivity", optimizer="powerstep", argument=argument)
    return varied.assign(number=pd.to_numeric(varied["value"], errors="coerce"))


def _scale(runs: pd.DataFrame, model: str) -> str:
    """Say how large a model is and how long it was trained."""
    of_model = _where(runs, model=model)
    size = of_model["parameters"].max()
    steps = f"{of_model['planned_steps'].iloc[0]:,} steps"
    return f"{model}, {steps}" if math.isnan(size) else f"{model}, {size / 1e6:.1f}M, {steps}"


def _scales(runs: pd.DataFrame) -> str:
    return "; ".join(_scale(runs, model) for model in runs["model"].unique())


def _rates(runs: pd.DataFrame) -> str:
    return "lr " + ", ".join(number(lr) for lr in sorted(runs["lr"].unique()))


def _early_loss(metrics: pd.DataFrame | None, steps: int) -> float:
    """Return the validation loss at the first validation after EARLY of a run's steps."""
    if metrics is None:
        return math.nan
    late_enough = metrics[(metrics["step"] >= EARLY * steps) & metrics["val_loss"].notna()]
    return late_enough["val_loss"].iloc[0] if len(late_enough) else math.nan


def _markdown(findings: list[Finding], runs: pd.DataFrame) -> str:
    """Return a table of verdicts, every finding under its claim, and what the runs came from."""
    claims = by_claim(findings)
    lines = ["| claim | verdict |", "|---|---|"]
    lines += [f"| {claim.number}. {claim.statement} | **{claim.verdict}** |" for claim in claims]
    lines += ["", SCOPE]
    for claim in claims:
        lines += [
            "",
            f"## {claim.number}. {claim.statement}: {claim.verdict}",
            "",
            f"The paper: {claim.paper}.",
            "",
        ]
        lines += [f"- {_sentence(finding)}" for finding in claim.parts]
        lines += ["", *(f"> {rule}" for rule in claim.rules)]
    lines += ["", "## Where this comes from", "", markdown(provenance(runs))]
    return "\n".join(lines)


def _sentence(finding: Finding) -> str:
    where = "; ".join(text for text in (finding.protocol, finding.scale) if text)
    return f"**{finding.verdict}**: {finding.part}: {finding.measured}" + (
        f" ({where})." if where else "."
    )


_CLAIMS: tuple[Callable[[Results], Iterator[Finding]], ...] = (
    *(claim_1, claim_2, claim_3, claim_4, claim_5, claim_6),
    *(claim_7, claim_8, claim_9, claim_10, claim_11),
)
