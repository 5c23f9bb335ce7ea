"""The commands of the Snakefile's rules: `python -m analysis figure | table | claims | …`.

Each command imports what it needs itself, because the imports of all take seconds.
"""

import argparse
import sys
from pathlib import Path

from analysis.catalogue import figures, tables
from analysis.frames import Results, read_plan, read_results, write_collected
from analysis.rows import Row
from experiments.settings import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run one command on a plan, `results/<profile>/plans/<digest>.csv`.

    If a file is missing or damaged, it prints one sentence that names the file, and exits with 2.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, (run, purpose) in _COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if run in (run_figure, run_table):
            command.add_argument("name", help="name of the figure or table")
        command.add_argument("plan", type=Path, help="CSV file <profile>/plans/<digest>.csv")
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
    from analysis.figures.write import write_figure

    figure = figures(plan)[options.name]
    write_figure(figure, _results(figure.rows, options), options.folder / "figures")


def run_table(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write one table."""
    from analysis.tables.write import write_table

    table = tables(plan)[options.name]
    write_table(table, _results(table.rows, options), options.folder / "tables")


def run_claims(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write all runs as one table, and the verdicts on the claims."""
    from analysis.claims.write import write_claims

    results = _results(plan, options)
    write_collected(results, options.folder)
    write_claims(results, options.folder)


def run_report(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write the report. The figures must have been drawn already."""
    from analysis.report import write_report

    settings = options.plan.with_suffix(".yaml")
    write_report(plan, _results(plan, options), options.folder, settings)


def run_all(options: argparse.Namespace, plan: list[Row]) -> None:
    """Run every command on the runs that have ended so far."""
    from analysis.claims.write import write_claims
    from analysis.figures.write import write_figure
    from analysis.report import write_report
    from analysis.tables.write import write_table

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
    "report": (run_report, "write report.html and verdicts.txt; needs the figures"),
    "all": (run_all, "write everything from the runs that have ended so far"),
}

if __name__ == "__main__":
    main()
