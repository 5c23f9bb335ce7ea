"""A count or a fit that failed leaves a marked gap, and nothing else is lost."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from analysis.catalogue import figures, tables
from analysis.claims.claims import judge_all
from analysis.claims.definitions import load_claims
from analysis.claims.rules.counted import state_ratio, table_1
from analysis.claims.verdicts import INCONCLUSIVE, NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from analysis.claims.write import write_claims
from analysis.figures.studies import state_memory
from analysis.figures.write import write_figure
from analysis.frames import read_plan, read_results
from analysis.report import write_report
from analysis.tables.write import make_table, write_table
from tests.analysis.conftest import planned, write_plan, write_studies

COUNTS = ["state_bytes", "state_bytes_routed_experts"]
COUNTS += [f"mib_per_device{reading}" for reading in ("", "_as_paper", "_replicated")]


@pytest.fixture
def results(results_folder):
    """Return a function that changes the files of the studies and then reads a plan."""

    def make(memory=lambda frame: frame, fits=lambda frame: frame):
        write_studies(results_folder)
        for name, change in {"memory": memory, "convergence_fits": fits}.items():
            path = results_folder / f"{name}.csv"
            change(pd.read_csv(path)).to_csv(path, index=False)
        plan = write_plan(results_folder, [planned("adamw")])
        return read_results(read_plan(plan), results_folder)

    return make


def uncounted(*optimizers, models=("gpt2-small", "qwen3-32b")):
    """Return a function that removes counts of optimizers, and adds further ones labelled AdamW."""

    def change(memory):
        for name in set(optimizers) - set(memory["optimizer"]):
            new = memory[memory["optimizer"] == "adamw"].assign(optimizer=name)
            memory = pd.concat([memory, new], ignore_index=True)
        gap = memory["optimizer"].isin(optimizers) & memory["model"].isin(models)
        memory[COUNTS] = memory[COUNTS].astype(float)
        memory.loc[gap, COUNTS] = np.nan
        memory.loc[gap, "reason"] = "it cannot step without memory"
        return memory

    return change


def without(*optimizers):
    return lambda memory: memory[~memory["optimizer"].isin(optimizers)]


@pytest.mark.parametrize(
    "memory",
    [
        uncounted("adamw", "powerstep", "powerstep-int8", "mine"),
        without("adamw", "powerstep-int8"),
    ],
)
def test_everything_is_made_with_gaps_in_the_counts(results, results_folder, memory):
    found = results(memory)
    folder = results_folder / "mine"
    settings = folder / "plans" / "plan.yaml"
    settings.write_text("dataset: tiny\n")
    plan = read_plan(settings.with_suffix(".csv"))
    judged = judge_all(found, ["powerstep"])
    write_claims(found, judged, folder)
    assert "nan" not in (folder / "claims.md").read_text().lower().split()
    for table in tables(plan).values():
        write_table(table, found, folder / "tables")
        assert "nan" not in (folder / "tables" / f"{table.name}.md").read_text().lower()
    for figure in figures(plan).values():
        write_figure(figure, found, folder / "figures")
    write_report(plan, found, judged, folder, settings)
    assert (folder / "report.html").exists()


def test_a_gap_is_marked_in_table_and_figure_beside_an_optimizer_of_the_same_label(results):
    found = results(uncounted("mine"))
    table = make_table(tables([])["table1"], found)[1]
    assert table["qwen3-32b, ours"].tolist() == ["976.4", "488.2", "125.9", "–"]
    assert table.index.tolist() == ["AdamW", "PowerStep", "PowerStep int8", "AdamW"]
    figure, data = state_memory(found)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["1.03", "4.00", "8.00", "not counted"]
    assert [bar.get_width() for bar in axis.patches] == [1.03125, 4.0, 8.0, 0.0]
    assert [label.get_text() for label in axis.get_yticklabels()][2:] == ["AdamW", "AdamW"]
    assert data["bytes_per_parameter"].isna().tolist() == [False, False, False, True]
    plt.close(figure)


def doubled(memory):
    """Double AdamW's counts, so that it has four times PowerStep's state."""
    memory[COUNTS] = memory[COUNTS].astype(float)
    memory.loc[memory["optimizer"] == "adamw", COUNTS] *= 2
    return memory


@pytest.mark.parametrize(
    ("memory", "verdict", "measured"),
    [
        (uncounted("mine"), SUPPORTED, "2.0000 to 2.0000 times less"),
        (uncounted("powerstep", models=["qwen3-32b"]), INCONCLUSIVE, "less, 1 missing"),
        (
            lambda memory: doubled(uncounted("powerstep", models=["qwen3-32b"])(memory)),
            NOT_SUPPORTED,
            "4.0000 times less, 1 missing",
        ),
        (uncounted("powerstep"), NOT_TESTED, "could be counted"),
        (without("powerstep"), NOT_TESTED, "could be counted"),
        (without("adamw"), NOT_TESTED, "could be counted"),
    ],
)
def test_a_ratio_that_is_not_known_is_not_refuted(results, memory, verdict, measured):
    (finding,) = state_ratio(results(memory), load_claims("powerstep")["2"].parts[0])
    assert finding.verdict == verdict
    assert measured in finding.measured


@pytest.mark.parametrize(
    ("optimizers", "verdict"),
    [
        (["powerstep-int8"], INCONCLUSIVE),
        (["adamw", "powerstep-int8"], NOT_TESTED),
    ],
)
def test_table_1_is_not_met_by_what_was_not_counted(results, optimizers, verdict):
    part = load_claims("powerstep")["2"].parts[2]
    (finding,) = table_1(results(uncounted(*optimizers)), part)
    assert "table 1" in part.part
    assert finding.verdict == verdict
