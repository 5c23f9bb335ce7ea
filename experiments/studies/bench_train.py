"""The table of `make bench-train`: tokens per second of our training and of a plain loop.

In each round, every side trains the same model for some steps, in processes of its own. On a CPU
Snakemake trains several runs at the same time, one thread each, so the sides have the same cores in
all. On a GPU a run has it for itself.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Barrier
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from experiments.corpus.build import build
from experiments.corpus.tokens import read_tokens
from experiments.files import make_folder
from experiments.memory import KEEP_FREED_MEMORY
from experiments.plan.grid import plan
from experiments.plan.reading import CONFIG_DIR, load_profile
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError
from experiments.studies.bench_files import write_provenance, write_table
from experiments.studies.machine import accelerator_or_cpu
from experiments.studies.plain_training import train_plainly

PROFILES = {"cpu": "bench-train.yaml", "cuda": "bench-train-gpu.yaml"}
_SPAWN = multiprocessing.get_context("spawn")
Trainer = Callable[[RunSpec, Path, int, Barrier], list[float]]


class Side(NamedTuple):
    """Runs that train at the same time.

    Attributes:
        label: the row of the table.
        trainer: trains a run and returns the time before each step in seconds.
        optimizer: name of an entry of optimizers.yaml.
        runs: number of runs, which share the cores; 0 for one run per core.
        environment: variables of their processes.
        is_compiled: whether torch.compile compiles the model.
    """

    label: str
    trainer: Trainer
    optimizer: str = "adamw"
    runs: int = 1
    environment: dict[str, str] = KEEP_FREED_MEMORY
    is_compiled: bool = False


def plain(spec: RunSpec, corpus: Path, threads: int, start: Barrier) -> list[float]:
    """Train with `train_plainly`, once all runs of the side are ready."""
    torch.set_num_threads(threads)
    tokens = read_tokens(corpus)[0]
    data = tokens.first(len(tokens))
    start.wait()
    return train_plainly(spec.model, spec.training, data)


def ours(spec: RunSpec, corpus: Path, threads: int, start: Barrier) -> list[float]:
    """Train as `python -m experiments train` does, once all runs of the side are ready."""
    from experiments.training.lightning_import import import_lightning

    import_lightning()
    from experiments.training.lightning_module import LanguageModelRun
    from experiments.training.train import train

    torch.set_num_threads(threads)
    times: list[float] = []

    def on_train_batch_start(run: LanguageModelRun, batch: int, batch_idx: int) -> None:
        if not times:
            start.wait()
        times.append(time.perf_counter())

    LanguageModelRun.on_train_batch_start = on_train_batch_start  # a hook of Lightning
    with tempfile.TemporaryDirectory() as folder:
        train(spec, corpus, Path(folder) / "training")
    return times


SIDES = {
    "cpu": (
        Side("nanoGPT's loop, one run", plain, environment={}),
        Side("the same, keeping freed memory", plain),
        Side("ours, AdamW, one run", ours),
        Side("ours, AdamW, a run per core", ours, runs=0),
        Side("ours, PowerStep, a run per core", ours, "powerstep", runs=0),
    ),
    "cuda": (
        Side("nanoGPT's loop", plain),
        Side("nanoGPT's loop, compiled", plain, is_compiled=True),
        Side("ours, AdamW", ours),
        Side("ours, PowerStep", ours, "powerstep"),
        Side("ours, AdamW, compiled", ours, is_compiled=True),
        Side("ours, PowerStep, compiled", ours, "powerstep", is_compiled=True),
    ),
}


def write_bench_train(rounds: int, folder: Path) -> None:
    """Write training.csv, .md and training_provenance.json to a folder, and print the table.

    Columns: side; runs; threads, of each run; tokens_per_second, of all runs together, the median
    over the rounds; and the median and the quartiles over the rounds of its ratio to nanoGPT's loop
    in the same round. A run's speed is that of its median interval between two logged steps, at
    which the GPU has finished its work; the first interval does not count.

    Args:
        rounds: number of rounds.
        folder: the folder for the files.

    Raises:
        ConfigError: rounds is not accepted.
    """
    if rounds < 1:
        raise ConfigError((), f"--rounds is {rounds}, but it must be at least 1")
    make_folder(folder)
    device = accelerator_or_cpu().type
    profile = load_profile(str(CONFIG_DIR / "studies" / PROFILES[device]))
    specs = {run.spec.optimizer.name: run.spec for run in plan(profile)}
    corpus = next(iter(specs.values())).corpus
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as made, _SPAWN.Manager() as manager:
        build(corpus.name, corpus.settings, Path(made))
        speeds = pd.DataFrame(
            {
                side.label: _speed(side, specs[side.optimizer], Path(made), cores, manager)
                for side in SIDES[device]
            }
            for _ in range(rounds)
        )
    write_table(statistics(speeds, SIDES[device], cores), folder / "training")
    command = ["python", "-m", "experiments", "bench-train", "--rounds", str(rounds)]
    write_provenance(folder / "training_provenance.json", [*command, "--out", str(folder)])


def _speed(side: Side, spec: RunSpec, corpus: Path, cores: int, manager: SyncManager) -> float:
    """Return the tokens per second of all runs of a side together."""
    runs = side.runs or cores
    training = spec.training.model_copy(update={"compile": side.is_compiled})
    spec = spec.model_copy(update={"training": training})
    start = manager.Barrier(runs)
    with _environment(side.environment), ProcessPoolExecutor(runs, mp_context=_SPAWN) as pool:
        futures = [
            pool.submit(side.trainer, spec, corpus, cores // runs, start) for _ in range(runs)
        ]
        times = [future.result() for future in futures]
    intervals = [np.diff(each[:: training.log_every])[1:] for each in times]
    tokens = training.log_every * training.batch_size * training.context
    return sum(tokens / float(np.median(each)) for each in intervals)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that start in the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def statistics(speeds: pd.DataFrame, sides: tuple[Side, ...], cores: int) -> pd.DataFrame:
    """Return the table of `write_bench_train` from the speeds, a row a round."""
    ratios = speeds.div(speeds[sides[0].label], axis=0)
    runs = [side.runs or cores for side in sides]
    return pd.DataFrame(
        {
            "side": [side.label for side in sides],
            "runs": runs,
            "threads": [cores // count for count in runs],
            "tokens_per_second": speeds.median().to_numpy(),
            "ratio": ratios.median().to_numpy(),
            "ratio_low": ratios.quantile(0.25).to_numpy(),
            "ratio_high": ratios.quantile(0.75).to_numpy(),
        }
    )
