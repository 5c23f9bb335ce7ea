"""The commands that the Snakefile's rules run: `python -m analysis figure | table | claims | …`."""

import argparse
from pathlib import Path

from analysis.catalogue import figures, tables
from analysis.claims import write_claims
from analysis.frames import Results, read_plan, read_results, write_collected


def main(arguments: list[str] | None = None) -> None:
    """Run one command on the folder of a profile."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in {
        "figure": "draw one figure",
        "table": "write one table",
        "claims": "write claims.csv and claims.md, runs.csv and metrics.parquet",
        "report": "write report.html and summary.txt",
        "all": "write everything from the runs that are done",
    }.items():
        command = commands.add_parser(name, help=purpose)
        if name in ("figure", "table"):
            command.add_argument("name", help="of the figure or table")
        command.add_argument("folder", type=Path, help="of the profile, such as results/laptop")
        command.add_argument("--plan", type=Path, required=True, help="CSV of the planned runs")
    options = parser.parse_args(arguments)
    plan, folder = read_plan(options.plan), options.folder

    if options.command in ("figure", "table"):
        kind = figures if options.command == "figure" else tables
        artefact = kind(plan)[options.name]
        results = read_results(artefact.rows, folder.parent)
        (_draw if kind is figures else _tabulate)([artefact], results, folder)
    else:
        results = read_results(plan, folder.parent)
        if options.command == "all":
            _draw(figures(plan).values(), results, folder)
            _tabulate(tables(plan).values(), results, folder)
        if options.command in ("claims", "all"):
            write_collected(results, folder)
            write_claims(results, folder)
        if options.command in ("report", "all"):
            _report(plan, results, folder)
