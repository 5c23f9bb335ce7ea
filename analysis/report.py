"""The report: one HTML page that loads nothing else, and the verdicts as text for the terminal."""

import base64
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.catalogue import Artefact, figures, tables
from analysis.claims.claims import Judged, decidable
from analysis.claims.selection import where
from analysis.claims.verdicts import INTERVAL, SCOPE
from analysis.estimates.levels import learned_level, levels
from analysis.estimates.replication import replication, replication_line
from analysis.frames import Results, origin_of, origins
from analysis.rows import Row
from analysis.tables.write import make_table
from analysis.text import MISSING, number
from experiments.files import atomic


def write_report(
    plan: list[Row],
    results: Results,
    judged: Mapping[str, list[Judged]],
    folder: Path,
    settings: Path,
) -> None:
    """Write `report.html` and `verdicts.txt` of a profile.

    Args:
        plan: all rows of the plan.
        results: results of all its runs.
        judged: the claims of each paper.
        folder: results of the profile. The figures must be there already.
        settings: YAML file with the settings behind the plan.
    """
    cells = replication(results.runs, results.folder / "reference")
    notes = [*_notes(results.runs), *_learning(results.runs), replication_line(cells)]
    notes = [note for note in notes if note]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        profile=folder.name,
        notes=notes,
        papers=judged,
        decidable=decidable,
        scope=SCOPE,
        level=f"{INTERVAL:.0%}",
        figures=[(figure, _png(folder, figure)) for figure in figures(plan).values()],
        tables=[(table, _html(make_table(table, results)[1])) for table in tables(plan).values()],
        runs=_run_table(results.runs),
        provenance=_html(origins(results.runs)),
        settings=settings.read_text(encoding="utf-8", errors="replace"),
    )
    with atomic(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    with atomic(folder / "verdicts.txt") as path:
        path.write_text(_verdicts(folder, notes, judged), encoding="utf-8")


def _notes(runs: pd.DataFrame) -> list[str]:
    """Return the facts about the runs that qualify all numbers, one sentence each."""
    counts = runs.drop_duplicates("run")["status"].value_counts()
    notes = [
        f"{counts.sum()} runs: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
    ]
    restored = runs.drop_duplicates("run")["restored_from"].value_counts()
    notes += [
        f"{count} of the runs were restored from {origin}" for origin, count in restored.items()
    ]
    without = runs.drop_duplicates("run").dropna(subset="reason")
    notes += [
        f"{row.label} on {row.model}, lr {number(row.lr)}, seed {row.seed}: {row.status},"
        f" {row.reason}"
        for row in without.itertuples()
    ]
    if "corpus.as_recorded" in runs and runs["corpus.as_recorded"].eq(False).any():
        notes.append(
            "the corpus differs from the recorded one (are other versions installed than in"
            " requirements.lock?), so losses are not exactly comparable with other machines"
        )
    if "provenance.commit" in runs and runs["provenance.commit"].nunique() > 1:
        notes.append("the runs were trained with code of several commits, listed at the end")
    return notes


def _learning(runs: pd.DataFrame) -> list[str]:
    """Return which models end below the bigram level, which above it, and which have not learned.

    Models whose levels are unknown are left out.
    """
    found: dict[str, list[str]] = {}
    for model in runs["model"].unique():
        of_model = where(runs, model=model)
        lowest = of_model["final_val_loss"].astype(float).min()
        bigram = levels(of_model)["bigram"]
        side = "below" if lowest <= bigram else "above" if lowest > bigram else ""
        effect = ", so their losses decide nothing" if lowest > learned_level(of_model) else ""
        if side:
            said = f"models whose lowest loss is {side} that of a bigram model{effect}"
            found.setdefault(said, []).append(f"{model} ({lowest:.2f}, bigram {bigram:.2f})")
    return [f"{said}: {', '.join(models)}" for said, models in found.items()]


def _png(folder: Path, figure: Artefact) -> str:
    return base64.b64encode((folder / "figures" / f"{figure.name}.png").read_bytes()).decode()


def _run_table(runs: pd.DataFrame) -> str:
    """Return the runs as an HTML table. Numbers have no units, so that the page can sort them."""
    experiments = runs.groupby("run", sort=False)["experiment"].agg(
        lambda names: ", ".join(dict.fromkeys(names))
    )
    # Several experiments may plan the same run. Keep the row that names a varied argument.
    once = runs.sort_values("argument", ascending=False, kind="stable").drop_duplicates("run")
    once = once.set_index("run").loc[experiments.index]
    table = pd.DataFrame(
        {
            "model": once["model"],
            "optimizer": once["label"],
            "argument": [
                f"{row.argument} = {row.value}" if row.argument else "" for row in once.itertuples()
            ],
            "lr": once["lr"].map(number),
            "seed": once["seed"],
            "status": once["status"],
            "steps": once["steps"].map("{:.0f}".format, na_action="ignore"),
            "final val loss": once["final_val_loss"].map("{:.4f}".format, na_action="ignore"),
            "best val loss": once["best_val_loss"].map("{:.4f}".format, na_action="ignore"),
            "spikes": once["spikes"].map("{:.0f}".format, na_action="ignore"),
            "state (bytes/param)": (once["state_bytes"] / once["parameters"]).map(
                "{:.3f}".format, na_action="ignore"
            ),
            "tokens/s": once["tokens_per_second"].map("{:.0f}".format, na_action="ignore"),
            "optimizer step (ms)": (once["optimizer_seconds"] * 1e3).map(
                "{:.2f}".format, na_action="ignore"
            ),
            "peak memory (MiB)": (once["peak_memory_bytes"] / 2**20).map(
                "{:.0f}".format, na_action="ignore"
            ),
            "trained": origin_of(once),
            "experiments": experiments,
        }
    )
    return table.to_html(border=0, na_rep=MISSING, index=False, table_id="runs", escape=True)


def _html(table: pd.DataFrame) -> str:
    return table.rename_axis(index=None, columns=table.index.name).to_html(border=0, na_rep=MISSING)


def _verdicts(folder: Path, notes: list[str], judged: Mapping[str, list[Judged]]) -> str:
    lines = [
        f"PowerStep-Bench, profile {folder.name}",
        *(f"  {note}" for note in notes),
        *(f"  {paper}: {decidable(claims)}" for paper, claims in judged.items()),
        *(
            f"  {each.number:>3}. {each.said}: {each.statement}"
            for claims in judged.values()
            for each in claims
        ),
        f"  open {folder / 'report.html'}; claims.md, tables and figures are in the same folder",
    ]
    return "\n".join(lines) + "\n"
