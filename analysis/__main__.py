"""The commands of the Snakefile's rules: `python -m analysis figure | table | claims | …`.

Each command imports what it needs itself, because the imports of all take seconds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.catalogue import figures, tables
from analysis.frames import Results, read_collected, read_plan, read_results, write_collected
from analysis.rows import Row
from experiments.plan.profile import Profile
from experiments.settings import ConfigError
from experiments.yaml_loader import read_yaml


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
    from analysis.claims.claims import judge_all
    from analysis.claims.write import write_claims

    results = _results(plan, options)
    write_collected(results, options.folder)
    write_claims(results, judge_all(results, _papers(options)), options.folder)


def run_report(options: argparse.Namespace, plan: list[Row]) -> None:
    """Write the report. The figures must have been drawn already."""
    from analysis.claims.claims import judge_all
    from analysis.report import write_report

    results = _results(plan, options)
    judged = judge_all(results, _papers(options))
    write_report(plan, results, judged, options.folder, _settings(options))


def run_all(options: argparse.Namespace, plan: list[Row]) -> None:
    """Run every command on the runs that have ended so far."""
    from analysis.claims.claims import judge_all
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
    judged = judge_all(results, _papers(options))
    write_claims(results, judged, options.folder)
    write_report(plan, results, judged, options.folder, _settings(options))


def run_rejudge(options: argparse.Namespace, _: list[Row]) -> None:
    """Judge the claims again by results that `make reference` copied, without their runs."""
    from analysis.claims.claims import judge_all
    from analysis.claims.write import write_claims

    folder = options.plan.parent
    results = read_collected(options.plan, folder.parents[1])
    write_claims(results, judge_all(results, _papers_of(folder / "settings.yaml")), folder)


def _results(rows: list[Row] | tuple[Row, ...], options: argparse.Namespace) -> Results:
    return read_results(rows, options.folder.parent)


def _settings(options: argparse.Namespace) -> Path:
    """Return the YAML file with the settings behind the plan."""
    return options.plan.with_suffix(".yaml")


def _papers(options: argparse.Namespace) -> Sequence[str]:
    return _papers_of(_settings(options))


def _papers_of(settings: Path) -> Sequence[str]:
    """Return the papers whose claims a profile judges."""
    return (read_yaml(settings) or {}).get("papers", Profile.model_fields["papers"].default)


_COMMANDS = {
    "figure": (run_figure, "draw one figure"),
    "table": (run_table, "write one table"),
    "claims": (run_claims, "write claims.csv and claims.md, runs.csv and metrics.parquet"),
    "report": (run_report, "write report.html and verdicts.txt; needs the figures"),
    "rejudge": (run_rejudge, "judge the claims again from a copied runs.csv, given as the plan"),
    "all": (run_all, "write everything from the runs that have ended so far"),
}

if __name__ == "__main__":
    main()
