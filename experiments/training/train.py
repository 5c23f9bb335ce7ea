"""Training one run: from its spec to metrics.parquet and summary.json."""

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from experiments.corpus.batches import TokenBatches, check_size
from experiments.corpus.facts import read_facts
from experiments.files import atomic, locked, make_folder
from experiments.plan.spec import RunSpec
from experiments.runs.folder import RunFolder
from experiments.runs.provenance import provenance
from experiments.training.callbacks import ProgressLine, SaveLast, SaveOnSignal, TensorBoard
from experiments.training.checkpoint_file import set_aside_if_damaged
from experiments.training.lightning_module import LanguageModelRun
from experiments.training.parallel import ALONE, Parallel
from experiments.training.strategies import environment, trainer_arguments

# Whoever trains on a login node or a machine of their own means to.
warnings.filterwarnings("ignore", message="The `srun` command is available")
# It is: a batch is looked up by its step (experiments.training.lightning_module).
warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")


def train(
    spec: RunSpec,
    corpus: Path,
    folder: Path,
    parallel: Parallel = ALONE,
    *,
    tensorboard: bool = False,
    requeue: Callable[[], None] | None = None,
) -> dict[str, Any] | None:
    """Train a run to its end, going on from its last checkpoint if there is one.

    A checkpoint that is damaged is set aside as last.ckpt.damaged, and the run starts anew; its
    history says so. Where several processes train it, each of them calls this.

    Args:
        spec: everything the result depends on.
        corpus: folder of the tokenised corpus.
        folder: RunFolder.training of this run; gets spec.json, metrics.jsonl and last.ckpt as it
            goes, and at its end metrics.parquet and summary.json.
        parallel: the processes, and how they share the work.
        tensorboard: whether to write TensorBoard logs as well.
        requeue: gives the job back to the queue and does not return. With it the run is saved when
            a signal says that the job is about to end.

    Returns:
        The summary, as it stands in summary.json; None in all processes but the first.

    Raises:
        ConfigError: the corpus is too small, the processes cannot share the run, or the optimizer
            cannot be made.
        FileError: a file of the run cannot be read or written.
    """
    facts = read_facts(corpus)
    expected_text = getattr(spec.corpus.settings, "sha256", None)
    check_size(facts, spec.training.batch_size, spec.training.context)
    parallel.check(spec, ("parallel",))
    is_first = environment().global_rank() == 0
    make_folder(folder)
    # Wait where another process trains it: one whose launcher was killed, or whose job was
    # cancelled and takes its time to end.
    with locked(folder / "lock") if is_first else nullcontext():
        checkpoint = folder / "last.ckpt"
        callbacks: list[L.Callback] = [SaveLast(checkpoint)]
        if is_first:
            with atomic(folder / "spec.json") as path:
                path.write_text(
                    spec.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8"
                )
            callbacks.append(ProgressLine())
            if tensorboard:
                callbacks.append(TensorBoard(folder / "tensorboard"))
        if requeue:
            callbacks.append(SaveOnSignal(checkpoint, requeue))
        run = LanguageModelRun(spec, TokenBatches(corpus, spec.training.context), folder, parallel)
        origin = provenance() | {
            "threads": torch.get_num_threads(),
            "processes": parallel.processes,
            "strategy": parallel.strategy if parallel.processes > 1 else None,
        }
        # Deterministic algorithms would also fill every fresh tensor with NaN, which takes time.
        torch.utils.deterministic.fill_uninitialized_memory = False
        trainer = L.Trainer(
            **trainer_arguments(parallel),
            max_steps=spec.training.steps,
            max_epochs=-1,
            accelerator="auto",
            precision=spec.training.precision,
            val_check_interval=spec.training.val_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            deterministic="warn",
            callbacks=callbacks,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        # `fit` does this as well; here the processes need each other before it.
        trainer.strategy.connect(run)
        trainer.strategy.setup_environment()
        goes_on = trainer.strategy.broadcast(is_first and _goes_on(checkpoint))
        trainer.fit(run, ckpt_path=checkpoint if goes_on else None, weights_only=True)
        if not is_first:
            return None
        summary = run.summary() | {
            "corpus": {
                "name": facts.name,
                "text_sha256": facts.text_sha256,
                "as_recorded": facts.text_sha256 == expected_text if expected_text else None,
            },
            "provenance": origin,
        }
        with atomic(folder / "metrics.parquet") as path:
            run.metrics.frame().to_parquet(path, index=False)
        with atomic(folder / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _goes_on(checkpoint: Path) -> bool:
    """Tell whether a run goes on from its checkpoint; say so where that is damaged."""
    aside = set_aside_if_damaged(checkpoint)
    if aside:
        told = f"{checkpoint} is damaged: it is now {aside.name}, and the run starts anew"
        print(told, file=sys.stderr, flush=True)
        RunFolder(checkpoint.parent.parent).history.append("restarted", reason=told)
    return checkpoint.exists()
