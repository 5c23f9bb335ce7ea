"""The analysis names a damaged file and what to do with it; a damaged result counts as missing."""

import pytest

from analysis.__main__ import main
from analysis.frames import read_plan, read_results
from experiments.settings import ConfigError
from tests.analysis.conftest import planned, write_plan, write_run, write_studies

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff\xfe" + content,
}
any_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
ROWS = [planned(optimizer, seed) for optimizer in ("adamw", "powerstep") for seed in (0, 1)]


@pytest.fixture
def plan(results_folder):
    """Return the path of a plan whose runs have all ended."""
    for row in ROWS:
        write_run(results_folder, row, final=4.0)
    write_studies(results_folder)
    return write_plan(results_folder, ROWS)


def told(arguments, capsys):
    """Return the one line in which a command ends."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@any_damage
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mine/plans/plan.csv", ["claims"]),
        ("memory.csv", ["table", "table1"]),
        ("memory.csv", ["figure", "state_memory"]),
        ("convergence_fits.csv", ["claims"]),
        ("convergence.csv", ["figure", "convergence"]),
    ],
)
def test_a_damaged_table_is_named(damage, name, command, plan, results_folder, capsys):
    path = results_folder / name
    path.write_bytes(damage(path.read_bytes()))
    line = told([*command, str(plan)], capsys)
    assert line == f"error: {path} is damaged: delete it, and the same command makes it again"


def test_a_missing_table_is_named(plan, results_folder, capsys):
    (results_folder / "memory.csv").unlink()
    line = told(["table", "table1", str(plan)], capsys)
    assert line.endswith("memory.csv is missing: the same command makes it again")


@any_damage
@pytest.mark.parametrize("name", ["summary.json", "metrics.parquet"])
def test_a_run_with_a_damaged_result_is_missing(damage, name, plan, results_folder):
    path = results_folder / "runs" / ROWS[1]["run"] / name
    path.write_bytes(damage(path.read_bytes()))
    results = read_results(read_plan(plan), results_folder)
    assert results.runs["status"].tolist() == ["completed", "missing", "completed", "completed"]
    assert ROWS[1]["run"] not in set(results.metrics["run"])


def test_metrics_that_are_damaged_inside_are_named(plan, results_folder):
    path = results_folder / "runs" / ROWS[0]["run"] / "metrics.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) - 8) + content[-4:])
    with pytest.raises(ConfigError, match=r"metrics.parquet is damaged: delete it, and training/"):
        read_results(read_plan(plan), results_folder)
