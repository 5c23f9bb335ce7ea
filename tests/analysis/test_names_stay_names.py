"""A name that looks like a number or markup stays text, from the plan to tables and figures."""

import csv
import re

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.catalogue import figures, tables
from analysis.claims.claims import judge
from analysis.frames import read_plan, read_results, read_table
from analysis.tables.cost import time_to_target
from analysis.tables.final_losses import loss_by_optimizer, loss_by_value
from analysis.tables.write import make_table, write_table
from analysis.text import number
from experiments.launch.status import status
from experiments.runs.folder import ResultsFolder
from experiments.settings import ConfigError
from tests.analysis.conftest import planned, write_plan, write_run, write_studies

NAMES = ["124", "007", "08", "1e3", "NA", "nan", "None", "null", "true", "inf", "1_000"]
MARKUP = r"a|b & c_d_ % $x <i> #1 *s* $\foo"


def named(optimizer="adamw", seed=0, **row):
    """Return a row of a plan whose run is named by its model and optimizer."""
    made = planned("adamw", seed) | {"optimizer": optimizer} | row
    varied = f"{made['argument']}{made['value']}"
    run = f"{made['model']}/{made['optimizer']}/lr{made['lr']!r}_seed{made['seed']}{varied}"
    return made | {"run": run}


def written(results_folder, rows, finals=None):
    """Write a plan and its runs, the first with a final loss of 3 nats, then 3.1, 3.2 …."""
    write_studies(results_folder)
    for i, row in enumerate(rows):
        final = 3 + i / 10 if finals is None else finals[i]
        write_run(results_folder, row | {"optimizer": "adamw"}, final)
    return write_plan(results_folder, rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_read_as_it_was_written(tmp_path, name):
    columns = ("experiment", "model", "optimizer", "label", "dataset", "argument", "value")
    row = named() | dict.fromkeys(columns, name) | {"run": f"{name}/{name}/x"}
    with (tmp_path / "plan.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    assert read_plan(tmp_path / "plan.csv") == [row]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_read_as_it_was_written(results_folder, name):
    write_studies(results_folder)
    path = results_folder / "memory.csv"
    path.write_text(path.read_text().replace("PowerStep int8", name).replace("qwen3-32b", name))
    memory = read_table(results_folder / "memory.csv")
    assert set(memory["model"]) == {"gpt2-small", name}
    assert set(memory["label"]) == {"AdamW", "PowerStep", name}
    assert np.issubdtype(memory["state_bytes"].dtype, np.number)


@pytest.mark.parametrize("name", ["007", "NA", "1.3m"])
def test_names_alone_that_look_like_numbers_reach_every_result(results_folder, name):
    rows = [
        named(name, seed, experiment=experiment, model=name, dataset=name, label=name)
        for experiment in ("comparison", "learning_rate", name)
        for seed in (0, 1)
    ]
    plan = written(results_folder, rows)
    plan.with_suffix(".yaml").write_text("dataset: tiny\n")
    main(["all", str(plan)])
    folder = plan.parents[1]
    runs = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False)
    assert set(runs["label"]) == {name}
    for table in ("table4", f"loss_{name}", "cost", "time_to_target"):
        assert f"\n| {name} " in (folder / "tables" / f"{table}.md").read_text()
    assert f"<td>{name}</td>" in (folder / "report.html").read_text()
    assert (folder / "figures" / f"lr_{name}.png").exists()


def test_a_dataset_called_nan_is_shown_in_table_2(results_folder):
    plan = read_plan(written(results_folder, [named(dataset="nan")]))
    _, shown = make_table(tables(plan)["table2"], read_results(plan, results_folder))
    assert shown.loc["gpt2-pico", "dataset"] == "nan"


def test_status_shows_names_as_they_are(tiny_plan, tmp_path):
    runs = tiny_plan()
    for run in runs:
        run.spec.__dict__["model_name"] = "007"
    assert re.search(r"^007 +adamw", status(runs, ResultsFolder(tmp_path)), re.MULTILINE)


def test_markup_in_a_label_is_text_in_every_table(results_folder):
    plan = read_plan(written(results_folder, [named(label=MARKUP), named("powerstep")]))
    folder = results_folder / "mine" / "tables"
    write_table(tables(plan)["table4"], read_results(plan, results_folder), folder)
    lines = (folder / "table4.md").read_text().splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert len(set(cells)) == 1  # a | in the text does not end a cell
    assert r"| a\|b & c_d\_ % \$x \<i> #1 \*s\* \$\\foo " in lines[2]
    latex = (folder / "table4.tex").read_text()
    escaped = (
        r"a\textbar{}b \& c\_d\_ \% \$x \textless{}i\textgreater{} \#1 *s* \$\textbackslash foo & "
    )
    assert f"\n{escaped}" in latex


@pytest.mark.parametrize("label", ["[x]", "*x"])
def test_a_label_is_no_argument_of_the_line_before(results_folder, label):
    rows = [named("powerstep"), named(label=label)]
    plan = read_plan(written(results_folder, rows))
    folder = results_folder / "mine" / "tables"
    write_table(tables(plan)["table4"], read_results(plan, results_folder), folder)
    assert "\\\\\n{}" + label in (folder / "table4.tex").read_text()


def test_markup_in_a_label_is_text_in_every_figure(results_folder):
    rows = [
        named(seed=seed, label=MARKUP, experiment=experiment)
        for experiment in ("comparison", "learning_rate")
        for seed in (0, 1)
    ]
    path = results_folder / "memory.csv"
    plan = written(results_folder, rows)
    memory = pd.read_csv(path)
    memory.assign(label=memory["label"].replace("AdamW", MARKUP)).to_csv(path, index=False)
    (results_folder / "runs" / rows[-1]["run"] / "summary.json").unlink()  # a missing run
    for name in figures(read_plan(plan)):
        main(["figure", name, str(plan)])
        assert (plan.parents[1] / "figures" / f"{name}.pdf").exists()


def test_two_optimizers_of_one_label_stand_in_the_tables_of_memory(results_folder):
    plan = read_plan(written(results_folder, [named()]))
    path = results_folder / "memory.csv"
    path.write_text(path.read_text().replace("PowerStep int8", "PowerStep"))
    results = read_results(plan, results_folder)
    _, shown = make_table(tables(plan)["table1"], results)
    assert list(shown.index) == ["AdamW", "PowerStep", "PowerStep"]
    _, shown = make_table(tables(plan)["table3"], results)
    assert shown.loc["qwen3-32b", "PowerStep int8 (MiB)"] == f"{16 * 125.9:,.1f}"


@pytest.mark.parametrize("value", [1e-3, 1.0000001e-3, 3e-5, 0.1 + 0.2, 1.0, 123456789.0])
def test_a_number_is_told_from_any_other(value):
    assert float(number(value)) == value
    assert len(number(value)) <= len(repr(value))


def test_learning_rates_that_are_nearly_equal_are_kept_apart(results_folder):
    rows = [named(lr=lr) for lr in (1e-3, 1.0000001e-3)]
    plan = written(results_folder, rows)
    results = read_results(read_plan(plan), results_folder)
    _, shown = loss_by_optimizer(results)
    assert shown["gpt2-pico, lr 0.001"].tolist() == ["3.000 (n=1)"]
    assert shown["gpt2-pico, lr 0.0010000001"].tolist() == ["3.100 (n=1)"]
    main(["figure", "fig2a", str(plan)])
    lines = pd.read_csv(plan.parents[1] / "figures" / "fig2a.csv")["line"]
    assert set(lines) == {"lr 0.001", "lr 0.0010000001"}


def test_each_value_of_an_argument_has_a_row_in_any_experiment(results_folder):
    rows = [
        named(experiment="mine", argument="eps", value=value, lr=lr)
        for value in ("1e-8", "1e-08", "True")
        for lr in (1e-3, 3e-3)
    ]
    plan = read_plan(written(results_folder, rows))
    results = read_results(plan, results_folder)
    _, shown = loss_by_optimizer(results)
    assert shown["gpt2-pico, lr 0.001"].to_dict() == {
        "AdamW, eps = 1e-8": "3.000 (n=1)",
        "AdamW, eps = 1e-08": "3.200 (n=1)",
        "AdamW, eps = True": "3.400 (n=1)",
    }
    _, shown = loss_by_value(results)
    assert shown["gpt2-pico"].to_dict() == {
        f"eps = {row['value']}, lr {row['lr']:g}": f"{3 + i / 10:.3f} (n=1)"
        for i, row in enumerate(rows)
    }


def test_the_target_of_a_run_has_its_learning_rate(results_folder):
    rows = [named(optimizer, lr=lr) for lr in (1e-3, 3e-3) for optimizer in ("adamw", "powerstep")]
    for row in rows:
        row["label"] = row["optimizer"]
    plan = read_plan(written(results_folder, rows, [3.0, 2.5, 2.0, 2.5]))
    _, shown = time_to_target(read_results(plan, results_folder))
    # 2.5 + 2 (1 - step / 100) is 3.0 at step 75, seen at step 80; 2.0 is never reached.
    assert shown.loc["powerstep", "gpt2-pico, shared lr: steps"] == "80 (n=1)"
    assert shown.loc["powerstep", "gpt2-pico, lr 0.003: steps"] == "> 100 in 1 of 1"


def test_an_argument_that_is_no_number_is_part_of_no_claim(results_folder):
    rows = [
        named("powerstep", experiment="sensitivity", argument="beta", value=value)
        for value in ("0.1", "True", "$model.width")
    ]
    plan = read_plan(written(results_folder, rows))
    assert judge(read_results(plan, results_folder))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"experiment": "a_b", "model": "c"}, {"experiment": "a", "model": "b_c"}),
        ({"experiment": "a", "model": "Tiny"}, {"experiment": "a", "model": "tiny"}),
        ({"experiment": "A", "model": "x"}, {"experiment": "a", "model": "y"}),
        ({"experiment": "comparison", "model": "X"}, {"experiment": "comparison", "model": "x"}),
    ],
)
def test_two_results_of_one_file_name_are_refused(first, second):
    rows = [named(**first), named(**second)]
    expected = rf"^experiments.{second['experiment']} has '{second['model']}', but files named"
    with pytest.raises(ConfigError, match=expected):
        tables(rows), figures(rows)
