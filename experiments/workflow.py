"""The Snakefile's view of a profile: its runs, the files they need, and how they are launched.

Imports neither torch nor pandas, so that `snakemake -n` starts quickly.
"""

import codecs
import locale
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snakemake.utils import update_config

from experiments.files import check_folder, make_folder
from experiments.launch.gpus import visible_gpus
from experiments.launch.outdated import outdated_sentence
from experiments.launch.slurm.jobs import check_cluster
from experiments.launch.slurm.settings import parse_cluster
from experiments.launch.warm import offer_warm_processes
from experiments.plan.grid import plan
from experiments.plan.options import Options
from experiments.plan.reading import lines_named, load_profile
from experiments.plan.sweeps.decision import read_decision
from experiments.plan.sweeps.following import Row, before
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.settings import ConfigError, digest, parse
from experiments.yaml_loader import read_yaml

_OTHER_FOLDERS = ("bench", "corpora", "logs", "reference", "runs")  # of results/


def set_environment(checkout: Path) -> None:
    """Set the environment variables that all commands of the rules need."""
    # Logs are written in an encoding that both UTF-8 and the locale can read.
    is_utf8 = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    os.environ |= {
        # The commands find this checkout's packages from any working directory.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")])),
        # The user's matplotlibrc and backend are not read: a broken one would end the import of
        # matplotlib, which Lightning imports too.
        "MATPLOTLIBRC": str(checkout / "analysis" / "figures" / "style.mplstyle"),
        "MPLBACKEND": "agg",
        "PYTHONIOENCODING": f"{'utf-8' if is_utf8 else 'ascii'}:backslashreplace",
    }
    # A character that the terminal lacks must not end a successful run.
    sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def errors_exit() -> Iterator[None]:
    """Exit with one sentence and exit code 1 on a ConfigError."""
    try:
        yield
    except ConfigError as error:
        sys.exit(f"error: {error}")


class Workflow:
    """A profile, its runs, and how they are launched.

    Args:
        config_files: the YAML files given to Snakemake by --configfile or a Snakemake profile.
        config: the values given by --config.
        cores: the cores that Snakemake may use.
        checkout: the folder of the Snakefile.

    Raises:
        ConfigError: an option, a profile or a cluster setting is not accepted, or a folder of the
            results is taken by something else.
    """

    def __init__(
        self, config_files: Iterable[Path], config: Mapping[str, Any], cores: int, checkout: Path
    ) -> None:
        self._config_files = [*config_files]
        given: dict[str, Any] = {}
        # Read again: Snakemake's own reader accepts a key twice, and reads 010 as 8.
        for path in self._config_files:
            update_config(given, read_yaml(path))
        update_config(given, config)
        self.options = parse(Options, given)
        self.profile = self.options.profile
        self.name = Path(self.profile).stem
        _check_name(self.name, checkout)
        self._results = ResultsFolder()
        with self.lines_named():
            profile = load_profile(self.profile)
            self.papers = profile.papers
            self.plan = plan(profile)
            self.cluster = None
            self._jobs = {}
            if "slurm" in given:
                self.cluster = parse_cluster(self.options.slurm, profile.models)
                for spec in (run.spec for run in self.plan):
                    optimizer = profile.optimizers[spec.optimizer.name]
                    job = self.cluster.job_of(spec.model_name, optimizer.sharded)
                    job.check(spec, ("slurm",))
                    self._jobs[spec.path] = job
        # A run that several experiments share appears once.
        self.runs = {run.spec.path: run.spec for run in self.plan}
        self.rows = [run.row() for run in self.plan]
        self.corpora = {spec.corpus.path: spec.corpus for spec in self.runs.values()}
        self.digest = digest(self.plan)
        self._set_aside_damaged_results()
        # On this machine one run trains per GPU, or per core without GPUs; they share the cores.
        at_once = self.options.runs_at_once or len(visible_gpus()) or cores
        self.threads = 0 if self.cluster else max(1, cores // at_once)

    def lines_named(self) -> Any:
        """Return a context that adds the file and the line to a ConfigError."""
        return lines_named(self.profile, *self._config_files)

    def folder(self, run: str) -> RunFolder:
        """Return the folder of a run."""
        return self._results.run(run)

    def decision_file(self, experiment: str, run: str) -> Path:
        """Return the file that says whether an experiment needs a run that may follow."""
        return self._results.path / self.name / "extensions" / experiment / f"{run}.json"

    def before(self, experiment: str, run: str) -> list[Row]:
        """Return the rows by whose results a run that may follow is decided."""
        return before(run, [row for row in self.rows if row["experiment"] == experiment])

    def corpus_of(self, run: str) -> str:
        """Return the folder of a run's corpus."""
        return str(self._results.corpora / self.runs[run].corpus.path)

    def job_of(self, run: str) -> str:
        """Return the settings of a run's SLURM job as JSON; null if it is trained here."""
        if not self.cluster:
            return "null"
        return self._jobs[run].model_dump_json(exclude_defaults=True, ensure_ascii=True)

    def check_start(self) -> None:
        """Check the disk and SLURM; called when jobs are about to start.

        Raises:
            ConfigError: results/ cannot be written to, or SLURM would refuse a job.
        """
        make_folder(self._results.path)
        if outdated := outdated_sentence(self.runs.values(), self._results):
            print(outdated, file=sys.stderr)
        if not self.cluster:
            offer_warm_processes()
        else:
            with self.lines_named():
                check_cluster(self.cluster, {spec.model_name for spec in self.runs.values()})

    def failed_runs(self) -> list[str]:
        """Return a line for each run that ended without a result."""
        folders = [self.folder(run) for run in self.runs]
        outcomes = [(folder.path, folder.summary) for folder in folders]
        return [
            f"{path}: {summary['status']}, {summary['reason']}"
            for path, summary in outcomes
            if "reason" in summary
        ]

    def _set_aside_damaged_results(self) -> None:
        """Rename damaged results: Snakemake makes them again, from training/ if that is whole."""
        for folder in ("corpora", "logs", self.name):
            check_folder(self._results.path / folder)
        for row in self.rows:
            decision = self.decision_file(row["experiment"], row["run"])
            if not row["extension"] or not read_decision(decision):
                continue
            if not self.folder(row["run"]).is_done:
                decision.unlink()  # the run failed, or its result is lost: it is launched again
        for run in self.runs:
            check_folder(self.folder(run).path)
            for damaged in self.folder(run).set_aside_damaged():
                print(f"{damaged} was damaged: it is now {damaged.name}.damaged", file=sys.stderr)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty; "" if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line), "")


def _check_name(name: str, checkout: Path) -> None:
    if name in _OTHER_FOLDERS:
        raise ConfigError(
            (), f"profile is {name!r}, but results/{name} holds other things: rename it"
        )
    for path in (name, str(checkout)):
        if set(path) & set("{}"):
            raise ConfigError(
                (), f"{path!r} has a brace, which is a wildcard in Snakemake: rename it"
            )
    if any("\udc80" <= character <= "\udcff" for character in name):
        raise ConfigError(
            (), f"profile is {name!r}, which is no text in this locale: set LC_ALL=C.UTF-8"
        )
