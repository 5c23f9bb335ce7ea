"""The commands that the Snakefile's rules run: `python -m experiments corpus | plan | …`.

Each command imports its heavy dependencies itself, so that mistakes are reported quickly.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.corpus.settings import Corpus
from experiments.launch.gpus import own_gpu, visible_gpus
from experiments.plan.files import write_plan, write_settings
from experiments.plan.grid import dump_used, plan
from experiments.plan.reading import lines_named, load_profile
from experiments.plan.spec import RunSpec
from experiments.plan.sweeps.decision import decide, write_decision
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.settings import ConfigError

# Studies by the names of their commands: module of experiments.studies, function, and purpose.
_STUDIES = {
    "memory": (("state_memory", "write_memory"), "count the optimizer state of full-size models"),
    "convergence": (("convergence", "write_convergence"), "measure convergence on a noisy problem"),
    "step-cost": (("step_time", "write_step_cost"), "measure the time of a step per parameter"),
    "peak-memory": (("peak_memory", "write_peak_memory"), "measure the peak memory of training"),
}
_JOB = "settings of a SLURM job, as JSON; null to train here"


def main(arguments: list[str] | None = None) -> None:
    """Run one command; report a ConfigError in one sentence, with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], None], purpose: str, profile: bool = False
    ) -> Any:
        command = commands.add_parser(name, help=purpose)
        command.set_defaults(run=run)
        if profile:
            command.add_argument("--profile", default="laptop", help="name or path of a profile")
        return command.add_argument

    option = add("corpus", run_corpus, "tokenise a dataset")
    option("--spec", required=True, help="the corpus as JSON")
    option("--folder", type=Path, required=True, help="the corpus's folder")

    option = add("plan", run_plan, "check a profile against its corpora; list its runs", True)
    option("--corpora", type=Path, required=True, help="folder of the corpora")
    option("--output", type=Path, required=True, help="CSV file for the list of runs")
    option("--settings", type=Path, required=True, help="YAML file for their settings")

    _add_run(add("train", run_train, "train one run, or resume it"))

    option = add("launch", run_launch, "launch one run, here or in a SLURM job")
    _add_run(option)
    option("--job", default="null", help=_JOB)

    option = add("extend", run_extend, "launch a run that may follow, if it is needed")
    _add_run(option)
    option("--job", default="null", help=_JOB)
    option("--plan", type=Path, required=True, help="CSV file of the plan")
    option("--experiment", required=True, help="the experiment that the run may extend")
    option("--run-name", required=True, help="RunSpec.path of the run")
    option("--output", type=Path, required=True, help="JSON file for the decision")

    option = add("fork-server", run_fork_server, "train runs in forks of one process")
    option("folder", type=Path, help="folder of its socket")

    option = add("warm", run_warm, "run a command in such a fork")
    option("--modules", nargs="*", default=[], help="modules to import before")
    option("--package", required=True, help="package of the command")
    option("arguments", nargs="+", help="arguments of the command")

    option = add("jobs", run_jobs, "show the SLURM jobs of unfinished runs", True)
    option("--cluster", type=Path, required=True, help="YAML with the key slurm")

    add("status", run_status, "show the status of every run", True)

    add("budget", run_budget, "estimate the cost of a profile on this machine", True)

    option = add("bundles", run_bundles, "write the finished runs as bundles", True)
    option("--folder", type=Path, required=True, help="folder for the bundles")

    option = add("restore", run_restore, "restore the runs of bundles")
    option("folder", type=Path, help="folder of the bundles")

    for name, (study, purpose) in _STUDIES.items():
        run = partial(run_study, *study)
        add(name, run, purpose)("--output", type=Path, required=True, help="CSV file to write")

    option = add("check", run_check, "check how optimizers behave", True)
    option("--optimizer", nargs="+", default=[], metavar="NAME", help="entries; by default all")

    option = add("bench", run_bench, "measure the time and memory of optimizer steps")
    option("--rounds", type=int, default=15, help="timed steps per optimizer")
    option("--only", nargs="+", default=[], metavar="NAME", help="optimizers to measure")
    option("--out", type=Path, default=Path("results/bench"), help="output folder")

    option = add("bench-train", run_bench_train, "measure the speed of training")
    option("--rounds", type=int, default=5, help="measured runs of each side")
    option("--out", type=Path, default=Path("results/bench"), help="output folder")

    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # the locale may lack characters
    try:
        options.run(options)
    except ConfigError as error:
        sys.stdout.flush()  # so that the message is the last line of a log
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _add_run(option: Callable[..., Any]) -> None:
    """Add the options of a run: its spec, its folders, its threads and its logs."""
    option("--spec", required=True, help="the run as JSON")
    option("--corpus", type=Path, required=True, help="folder of the corpus")
    option("--folder", type=Path, required=True, help="folder for the run's files")
    option("--threads", type=int, default=1, help="processor threads on this machine")
    option("--tensorboard", type=int, choices=(0, 1), default=0, help="1 to write TensorBoard logs")


def run_corpus(options: argparse.Namespace) -> None:
    """Build a corpus."""
    from experiments.corpus.build import build

    corpus = Corpus.model_validate_json(options.spec)
    facts = build(corpus.name, corpus.settings, options.folder)
    print(f"{facts.documents} documents, {facts.train_tokens + facts.val_tokens} tokens")


def run_plan(options: argparse.Namespace) -> None:
    """Check the runs against the corpora and the optimizer classes, then write their list."""
    from experiments.plan.preflight import check_runs, checked_rows, ready
    from experiments.plan.sweeps.ladder import check_ladder

    with lines_named(options.profile):
        profile = load_profile(options.profile)
        planned = plan(profile)
        check_ladder(profile, planned)
        warnings = check_runs(planned, options.corpora)
    rows = checked_rows(planned, options.corpora)
    write_settings(options.profile, dump_used(profile, planned), options.settings)
    write_plan(rows, options.output)
    print("\n".join([ready(planned), *warnings]))


def run_train(options: argparse.Namespace) -> None:
    """Train a run, and print its status and its final validation loss."""
    with own_gpu() as gpu:
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before torch is imported
        import torch

        from experiments.training.lightning_import import import_lightning

        import_lightning()
        from experiments.training.train import train

        torch.set_num_threads(options.threads)
        spec = RunSpec.model_validate_json(options.spec)
        summary = train(spec, options.corpus, options.folder, tensorboard=options.tensorboard)
    print(f"{summary['status']} after {summary['steps']} steps: {summary['final_val_loss']}")


def run_launch(options: argparse.Namespace) -> None:
    """Launch a run, wait for its end, and print its status."""
    from experiments.launch.launch import launch

    spec, run = RunSpec.model_validate_json(options.spec), RunFolder(options.folder)
    if options.job != "null":
        from experiments.launch.slurm.launcher import SlurmLauncher
        from experiments.launch.slurm.queue import Queue
        from experiments.launch.slurm.settings import JobSettings
        from experiments.launch.slurm.task import TrainingTask

        job = JobSettings.model_validate_json(options.job)
        task = TrainingTask(spec, options.corpus, run, job, options.tensorboard)
        train = SlurmLauncher(task, Queue(ResultsFolder().slurm_queue)).train
    else:
        from experiments.launch.here import train_here

        train = partial(train_here, spec, options.corpus, run, options.threads, options.tensorboard)
    print(launch(run, train))


def run_extend(options: argparse.Namespace) -> None:
    """Launch a run that may follow if the best rate of its sweep is the outermost so far."""
    results = ResultsFolder()
    is_needed = decide(
        options.plan, options.experiment, options.run_name, lambda run: results.run(run).final_loss
    )
    if is_needed and not RunFolder(options.folder).is_done:
        run_launch(options)
    write_decision(options.output, is_needed)
    print("needed" if is_needed else "not needed")


def run_fork_server(options: argparse.Namespace) -> None:
    """Fork a process for each run, on request of a launcher."""
    from experiments.launch.fork_server import serve

    serve(options.folder)


def run_warm(options: argparse.Namespace) -> None:
    """Run a command of a package in a fork of the fork server."""
    from experiments.launch.warm import run

    sys.exit(run(options.package, options.arguments, options.modules))


def run_jobs(options: argparse.Namespace) -> None:
    """Print the SLURM jobs of unfinished runs by model, with one batch script each."""
    from experiments.launch.slurm.jobs import describe_jobs
    from experiments.launch.slurm.settings import read_cluster

    with lines_named(options.profile, options.cluster):
        profile = load_profile(options.profile)
        planned = plan(profile)
        cluster = read_cluster(options.cluster, profile.models)
    print(describe_jobs([run.spec for run in planned], cluster, ResultsFolder()))


def run_status(options: argparse.Namespace) -> None:
    """Print the status of every run of a profile."""
    from experiments.launch.status import status

    with lines_named(options.profile):
        planned = plan(load_profile(options.profile))
    print(status(planned, ResultsFolder()))


def run_budget(options: argparse.Namespace) -> None:
    """Print what the unfinished runs of a profile will cost on this machine."""
    from experiments.budget.budget import budgets, show

    with lines_named(options.profile):
        planned = plan(load_profile(options.profile))
    at_once = len(visible_gpus()) or len(os.sched_getaffinity(0))
    print(show(budgets(planned, ResultsFolder()), at_once))


def run_bundles(options: argparse.Namespace) -> None:
    """Write a bundle of each finished run of a profile."""
    from experiments.bundles.folder import write_bundles

    with lines_named(options.profile):
        planned = plan(load_profile(options.profile))
    print(write_bundles((run.spec for run in planned), ResultsFolder(), options.folder))


def run_restore(options: argparse.Namespace) -> None:
    """Restore the runs of the bundles in a folder."""
    from experiments.bundles.folder import restore_bundles

    print(restore_bundles(options.folder, ResultsFolder()))


def run_study(module: str, function: str, options: argparse.Namespace) -> None:
    """Write the CSV file of a study."""
    study = importlib.import_module(f"experiments.studies.{module}")
    getattr(study, function)(options.output)


def run_check(options: argparse.Namespace) -> None:
    """Check how optimizers behave; exit with code 1 if one fails unexpectedly."""
    from experiments.training.lightning_import import import_lightning

    import_lightning()
    from experiments.conformance.check import check

    with lines_named(options.profile):
        optimizers = load_profile(options.profile).optimizers
        if not check(optimizers, options.optimizer):
            sys.exit(1)


def run_bench(options: argparse.Namespace) -> None:
    """Measure the time and memory of a step of each optimizer."""
    from experiments.studies.bench import write_bench

    write_bench(options.rounds, options.only, options.out)


def run_bench_train(options: argparse.Namespace) -> None:
    """Measure the speed of training beside a plain loop."""
    from experiments.studies.bench_train import write_bench_train

    write_bench_train(options.rounds, options.out)


if __name__ == "__main__":
    main()
