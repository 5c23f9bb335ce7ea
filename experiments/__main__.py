"""The commands that the Snakefile's rules run: `python -m experiments corpus | plan | …`.

Heavy imports stand in the commands that need them, so that a mistake is told at once.
"""

import argparse
import csv
import sys
from pathlib import Path

from experiments.config import lines_named, load_profile
from experiments.files import atomic
from experiments.grid import Corpus, RunSpec, dump_used, plan
from experiments.settings import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a ConfigError becomes one sentence and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("corpus", help="tokenise a dataset")
    command.add_argument("--spec", required=True, help="the corpus as JSON")
    command.add_argument("--folder", type=Path, required=True, help="where its files go")
    command.set_defaults(run=run_corpus)

    command = commands.add_parser("plan", help="check a profile against its corpora; list its runs")
    command.add_argument("--profile", required=True, help="name or path of the profile")
    command.add_argument("--corpora", type=Path, required=True, help="folder of the corpora")
    command.add_argument("--output", type=Path, required=True, help="the list of runs, as CSV")
    command.add_argument("--settings", type=Path, required=True, help="those behind it, as YAML")
    command.set_defaults(run=run_plan)

    command = commands.add_parser("train", help="train one run, or go on with it")
    command.add_argument("--spec", required=True, help="the run as JSON")
    command.add_argument("--corpus", type=Path, required=True, help="folder of its corpus")
    command.add_argument("--folder", type=Path, required=True, help="where its files go")
    command.add_argument("--threads", type=int, default=1, help="processor threads")
    command.set_defaults(run=run_train)

    command = commands.add_parser("memory", help="count optimizer state at full size")
    command.add_argument("--output", type=Path, required=True, help="the counts, as CSV")
    command.set_defaults(run=run_memory)

    command = commands.add_parser("convergence", help="measure convergence on a noisy problem")
    command.add_argument("--output", type=Path, required=True, help="the curves, as CSV")
    command.set_defaults(run=run_convergence)

    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run_corpus(options: argparse.Namespace) -> None:
    """Build a corpus."""
    from experiments.corpus import build

    corpus = Corpus.model_validate_json(options.spec)
    facts = build(corpus.name, corpus.settings, options.folder)
    print(f"{facts.documents} documents, {facts.train_tokens + facts.val_tokens} tokens")


def run_plan(options: argparse.Namespace) -> None:
    """Check what needs the corpora and the optimizers' classes, then write the list of runs."""
    from experiments.check import check_runs

    with lines_named(options.profile):
        profile = load_profile(options.profile)
        planned = plan(profile)
        check_runs(planned, options.corpora)
    with atomic(options.settings) as path:
        path.write_text(
            f"# snakemake --config profile={options.profile}\n{dump_used(profile, planned)}",
            encoding="utf-8",
        )
    rows = [run.row() for run in planned]
    with atomic(options.output) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len({run.spec.path for run in planned})} runs are ready to train")


def run_train(options: argparse.Namespace) -> None:
    """Train a run and print how it ended."""
    import torch

    from experiments.training import train

    torch.set_num_threads(options.threads)
    summary = train(RunSpec.model_validate_json(options.spec), options.corpus, options.folder)
    print(f"{summary['status']} after {summary['steps']} steps: {summary['final_val_loss']}")


def run_memory(options: argparse.Namespace) -> None:
    """Count the optimizer state of the paper's models."""
    from experiments.memory import write_memory

    write_memory(options.output)


def run_convergence(options: argparse.Namespace) -> None:
    """Measure rate and floor of convergence."""
    from experiments.convergence import write_convergence

    write_convergence(options.output)


if __name__ == "__main__":
    main()
