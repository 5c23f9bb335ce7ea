"""The commands that the Snakefile's rules run: `python -m analysis collect | tables | …`."""

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Run one command on the folder of a profile."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in {
        "collect": "join the plan with what the runs left behind",
        "tables": "write the tables",
        "figures": "draw the figures",
        "report": "write report.html and summary.txt",
    }.items():
        command = commands.add_parser(name, help=purpose)
        command.add_argument("folder", type=Path, help="of the profile, such as results/laptop")
        if name == "collect":
            command.add_argument("--plan", type=Path, required=True, help="CSV of the planned runs")
            command.add_argument("--runs", type=Path, required=True, help="folder of all runs")
    options = parser.parse_args(arguments)

    if options.command == "collect":
        from analysis.frames import collect

        collect(options.plan, options.runs, options.folder)
    elif options.command == "tables":
        from analysis.tables import write_tables

        write_tables(options.folder)
    elif options.command == "figures":
        from analysis.figures import write_figures

        write_figures(options.folder)
    else:
        from analysis.report import write_report

        write_report(options.folder)


if __name__ == "__main__":
    main()
