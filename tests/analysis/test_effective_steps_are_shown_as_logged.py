"""Figures and tables of effective steps show the raw magnitudes that runs have logged."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from analysis.catalogue import figures, tables
from analysis.figures.write import write_figure
from analysis.frames import read_plan, read_results
from analysis.tables.write import make_table, write_table
from experiments.runs.effective_steps import (
    COMPARISONS_FILE,
    HISTOGRAMS_FILE,
    QUANTITIES,
    ROUNDING_FILE,
    write_rows,
)
from experiments.training.measuring.distributions import comparison, histograms, rounding_errors
from tests.analysis.conftest import planned, write_plan, write_run

STEPS = (10, 50, 100)
LAYERS = {
    "embedding": slice(0, 2000),
    "q": slice(2000, 3000),
    "v": slice(3000, 4000),
    "norm": slice(4000, 4100),
}
KINDS = {"effective_steps", "effective_tails", "effective_joint", "displacements", "rounding"}


def magnitudes(optimizer, seed):
    """Return the momentum, Adam's denominator and its update of a made-up run."""
    rng = np.random.default_rng([*optimizer.encode(), seed])
    momentum = 1e-3 * rng.standard_t(3, 4100)
    momentum[:100] = 0
    denominator = 1e-4 * rng.lognormal(size=4100)
    return [torch.from_numpy(x).float() for x in (momentum, denominator, momentum / denominator)]


def logged(optimizer, seed):
    """Return the rows of a run that logs the same at each step."""
    values = magnitudes(optimizer, seed)
    momentum = values[0]
    coarse = (momentum * 1e3).round() / 1e3
    layers = {"all": slice(None), **LAYERS}
    files = {HISTOGRAMS_FILE: [], COMPARISONS_FILE: [], ROUNDING_FILE: []}
    for step in STEPS:
        for quantity, value in zip(QUANTITIES, values, strict=True):
            key = {"step": step, "quantity": quantity}
            files[HISTOGRAMS_FILE] += [key | row for row in histograms(value, LAYERS)]
        for layer, part in layers.items():
            key = {"step": step, "layer": layer}
            compared = comparison(*(value[part] for value in values), 0.9, 0.1)
            files[COMPARISONS_FILE].append(key | compared)
            errors = rounding_errors(momentum[part], coarse[part], 0.1)
            key |= {"format": "int8", "accumulated": False}
            files[ROUNDING_FILE] += [key | errors, key | errors | {"accumulated": True}]
    return files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the plan and the results of two seeds of AdamW and PowerStep that have logged."""
    folder = tmp_path_factory.mktemp("written") / "results"
    rows = [
        planned(name, seed, experiment="effective_steps")
        for name in ("adamw", "powerstep")
        for seed in (0, 1)
    ]
    for row in rows:
        write_run(folder, row, 3.0)
        for file, of_run in logged(row["optimizer"], row["seed"]).items():
            write_rows(folder / "runs" / row["run"] / file, of_run)
    plan = read_plan(write_plan(folder, rows))
    return plan, read_results(plan, folder)


@pytest.fixture(scope="module")
def data(written, tmp_path_factory):
    """Return the data of each kind of figure, as its CSV has it."""
    plan, results = written
    folder, found = tmp_path_factory.mktemp("figures"), {}
    for artefact in figures(plan).values():
        if artefact.kind in KINDS:
            write_figure(artefact, results, folder)
            found[artefact.kind] = pd.read_csv(folder / f"{artefact.name}.csv")
    assert found.keys() == KINDS
    return found


def test_fans_are_quantiles_of_the_raw_steps_of_the_first_run(data):
    momentum, denominator, update = (
        value.double().abs().numpy() for value in magnitudes("powerstep", 0)
    )
    attention = momentum[2000:4000]
    for kind, exponent in (("effective_steps", -0.9), ("displacements", 0.1)):
        fan = data[kind][data[kind]["optimizer"] == "powerstep"]
        at = fan[(fan["panel"] == "attention") & (fan["step"] == 50)]
        # A bin is at most 25 % wide.
        found = at[["0.001", "0.25", "0.5", "0.75", "1.0"]].to_numpy().ravel()
        expected = np.quantile(attention**exponent, (0.001, 0.25, 0.5, 0.75, 1))
        np.testing.assert_allclose(found, expected, rtol=0.15)
    momentum, denominator, update = (
        value.double().abs().numpy() for value in magnitudes("adamw", 0)
    )
    for kind, steps in (("effective_steps", 1 / denominator), ("displacements", update)):
        fan = data[kind][data[kind]["optimizer"] == "adamw"]
        at = fan[(fan["panel"] == "embedding") & (fan["step"] == 100)]
        embedding = steps[:2000]
        expected = np.median(embedding[embedding > 0])
        assert at["0.5"].item() == pytest.approx(expected, rel=0.15)


def test_no_panel_is_drawn_for_layers_that_a_model_does_not_have(data):
    assert set(data["effective_steps"]["panel"]) == {"embedding", "attention", "norm"}


def test_a_joint_histogram_has_every_nonzero_coordinate_where_it_is(data):
    joint = data["effective_joint"]
    momentum, denominator, _ = magnitudes("powerstep", 0)
    found = joint[joint["optimizer"] == "powerstep"]
    used = momentum != 0
    assert found["count"].sum() == used.sum()
    for column, value in (("log2_momentum", momentum), ("log2_adam_denominator", denominator)):
        mean = np.average(found[column] + 0.25, weights=found["count"])
        assert mean == pytest.approx(value[used].abs().log2().mean().item(), abs=0.05)


def test_tails_begin_with_all_and_end_with_no_coordinates(data):
    for _, curve in data["effective_tails"].groupby(["optimizer", "at"]):
        assert {curve["share"].min(), curve["share"].max()} == {0.0, 1.0}
        ordered = curve.sort_values("D/median")
        assert (ordered["share"].diff().dropna() <= 0).all()


def test_tables_have_means_over_seeds(written):
    plan, results = written
    numbers, shown = make_table(tables(plan)["effective_steps"], results)
    assert len(shown) == 2 * 5
    medians = [
        np.median(np.abs(x[x != 0].double().numpy()) ** -0.9)
        for x in (magnitudes("powerstep", seed)[0] for seed in (0, 1))
    ]
    row = shown[shown["run of"] == "powerstep"].loc["all"]
    assert float(row["median D/η"]) == pytest.approx(np.mean(medians), rel=0.05)
    assert row["zeros"] == "2.4%"
    assert numbers["run"].nunique() == 4
    errors = [
        next(row for row in logged("powerstep", seed)[ROUNDING_FILE] if row["layer"] == "all")
        for seed in (0, 1)
    ]
    _, shown = make_table(tables(plan)["rounding"], results)
    assert len(shown) == 5
    once = np.mean([row["zero_codes"] for row in errors])
    assert shown.loc["all", "become 0"] == f"{once:.2%} / {once:.2%}"


def test_everything_can_be_made_before_any_run_is_done(results_folder, tmp_path):
    rows = [planned(name, experiment="effective_steps") for name in ("adamw", "powerstep")]
    plan = read_plan(write_plan(results_folder, rows))
    results = read_results(plan, results_folder)
    for artefact in figures(plan).values():
        if artefact.kind in KINDS:
            write_figure(artefact, results, tmp_path)
            assert (tmp_path / f"{artefact.name}.pdf").exists()
    for name in ("effective_steps", "rounding"):
        write_table(tables(plan)[name], results, tmp_path)
        assert (tmp_path / f"{name}.md").exists()
    assert not plt.get_fignums()
