"""The commands that the Snakefile's rules run: `python -m analysis figure | table | claims | …`."""

import argparse
import sys
from pathlib import Path

from analysis.catalogue import Row, figures, tables
from analysis.claims.write import write_claims
from analysis.figures.write import write_figure
from analysis.frames import Results, read_plan, read_results, write_collected
from analysis.report import write_report
from analysis.tables.write import write_table
from experiments.settings import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run one command on a plan, `results/<profile>/plans/<digest>.csv`.

    A damaged file is told in one sentence, with exit code 2.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, (run, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if run in (run_figure, run_table):
            command.add_argument("name", help="of the figure or table")
        command.add_argument("plan", type=Path, help="CSV in <profile>/plans/; results go beside")
        command.set_defaults(run=run)
    options = parser.parse_args(arguments)
    options.folder = options.plan.parents[1]
    try:
        options.run(options, read_plan(options.plan))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run_figure(options: argparse.Namespace, plan: list[Row]) -> None:
    """Draw one figure."""
    figure = figures(plan)[options.name]
    write_figure(figure, _results(figure.rows, options), options.folder / "figures")


def run_table(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write one table."""
    table = tables(plan)[options.name]
    write_table(table, _results(table.rows, options), options.folder / "tables")


def run_claims(options: argparse.Namespace, plan: list[Row]) -> None:
    """Collect all runs, and hold them against the claims."""
    results = _results(plan, options)
    write_collected(results, options.folder)
    write_claims(results, options.folder)


def run_report(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write the report from what the other commands left in the folder."""
    settings = options.plan.with_suffix(".yaml")
    write_report(plan, _results(plan, options), options.folder, settings)


def run_all(options: argparse.Namespace, plan: list[Row]) -> None:
    """Run all commands, on the runs that are done."""
    results = _results(plan, options)
    for figure in figures(plan).values():
        write_figure(figure, results, options.folder / "figures")
    for table in tables(plan).values():
        write_table(table, results, options.folder / "tables")
    write_collected(results, options.folder)
    write_claims(results, options.folder)
    write_report(plan, results, options.folder, options.plan.with_suffix(".yaml"))


def _results(rows: list[Row] | tuple[Row, ...], options: argparse.Namespace) -> Results:
    return read_results(rows, options.folder.parent)


_COMMANDS = {
    "figure": (run_figure, "draw one figure"),
    "table": (run_table, "write one table"),
    "claims": (run_claims, "write claims.csv and claims.md, runs.csv and metrics.parquet"),
    "report": (run_report, "write report.html and summary.txt from all the others"),
    "all": (run_all, "write everything from the runs that are done"),
}

if __name__ == "__main__":
    main()
