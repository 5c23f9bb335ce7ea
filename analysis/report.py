"""One page that opens without a network, and a few lines for the terminal."""

import base64
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.frames import load_runs
from analysis.statistics import Estimate, paired_difference
from analysis.tables import (
    MISSING,
    largest_model,
    state_memory_numbers,
    state_memory_table,
    val_loss_table,
)
from experiments.files import atomic


def write_report(folder: Path) -> None:
    """Write `report.html` and `summary.txt` of a profile, from its runs, tables and figures."""
    runs = load_runs(folder)
    findings = find(runs)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        profile=folder.name,
        findings=findings,
        lr=", ".join(f"{lr:g}" for lr in runs["lr"].unique()),
        seeds=runs.groupby("model", sort=False)["seed"].nunique().to_dict(),
        figures=[
            (figure.stem, base64.b64encode(figure.read_bytes()).decode())
            for figure in _figures(folder, runs)
        ],
        val_loss=_html(val_loss_table(runs)),
        state_memory=_html(state_memory_table(runs)),
        runs=_html(_run_table(runs)),
        provenance=_html(_provenance(runs)),
    )
    with atomic(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    with atomic(folder / "summary.txt") as path:
        path.write_text(_summary(folder, findings), encoding="utf-8")


def find(runs: pd.DataFrame) -> list[str]:
    """Return what a profile's runs show, a sentence each."""
    counts = runs["status"].value_counts()
    findings = [
        f"{len(runs)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    ]
    for model, of_model in runs.groupby("model", sort=False):
        for a, b in (("powerstep", "adamw"), ("powerstep-int8", "powerstep")):
            losses = {
                name: of_model[of_model["optimizer"] == name].set_index("seed") for name in (a, b)
            }
            if losses[a].empty or losses[b].empty:
                continue
            difference = paired_difference(losses[a]["final_val_loss"], losses[b]["final_val_loss"])
            labels = [losses[name]["label"].iloc[0] for name in (a, b)]
            diverged = sum((runs["status"] == "diverged").sum() for runs in losses.values())
            findings.append(f"{model}: {_compare(*labels, difference, diverged)}")
    largest = largest_model(state_memory_numbers(runs))
    sizes = ", ".join(f"{row.label} {row.bytes_per_parameter:.2f}" for row in largest.itertuples())
    findings.append(f"optimizer state in bytes per parameter: {sizes}")
    if runs["corpus.as_recorded"].eq(False).any():  # missing where none is recorded
        findings.append(
            "the corpus is not the recorded one (other versions than in requirements.lock?):"
            " losses do not compare exactly with those of other machines"
        )
    return findings


def _compare(a: str, b: str, difference: Estimate | None, diverged: int) -> str:
    if difference is None:
        return f"{a} against {b}: no seed completed with both"
    if diverged:  # the seeds that are left would flatter whichever diverged
        return f"{a} against {b}: not compared, {diverged} of their runs diverged"
    sign = "above" if difference.mean > 0 else "below"
    size = Estimate(abs(difference.mean), difference.half_width, difference.n)
    return f"{a} ends {size} nats {sign} {b} (final validation loss, n={difference.n})"


def _figures(folder: Path, runs: pd.DataFrame) -> list[Path]:
    names = [f"loss_{model}" for model in runs["model"].unique()]
    return [folder / "figures" / f"{name}.png" for name in [*names, "state_memory"]]


def _run_table(runs: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "model": runs["model"],
            "optimizer": runs["label"],
            "seed": runs["seed"],
            "status": runs["status"],
            "steps": runs["steps"],
            "final val loss": runs["final_val_loss"].map("{:.4f}".format, na_action="ignore"),
            "tokens/s": runs["tokens_per_second"].map("{:,.0f}".format),
            "optimizer step (ms)": (runs["optimizer_seconds"] * 1e3).map("{:.1f}".format),
            "peak memory (MiB)": (runs["peak_memory_bytes"] / 2**20).map("{:,.0f}".format),
        }
    )
    return table.set_index("model")


def _provenance(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what the runs came from; several values where they differ."""
    columns = [name for name in runs if name.startswith(("provenance.", "corpus."))]
    values = {
        name.removeprefix("provenance.").removeprefix("packages."): ", ".join(
            str(value) for value in runs[name].dropna().unique()
        )
        for name in columns
    }
    return pd.DataFrame({"value": values})


def _html(table: pd.DataFrame) -> str:
    return table.rename_axis(index=None, columns=table.index.name).to_html(border=0, na_rep=MISSING)


def _summary(folder: Path, findings: list[str]) -> str:
    lines = [
        f"PowerStep-Bench, profile {folder.name}",
        *(f"  {finding}" for finding in findings),
        f"  open {folder / 'report.html'}; tables and figures stand beside it",
    ]
    return "\n".join(lines) + "\n"
