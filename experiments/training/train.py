"""Training one run: from its spec to metrics.parquet and summary.json."""

import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as L
import torch

from experiments.corpus.batches import TokenBatches, check_size
from experiments.corpus.facts import read_facts
from experiments.files import atomic, locked, make_folder
from experiments.plan.spec import RunSpec
from experiments.runs.folder import TrainingFolder
from experiments.runs.metrics import MetricsLog
from experiments.runs.provenance import provenance
from experiments.runs.summary import Summary, training_summary
from experiments.training.callbacks import ProgressLine, SaveLast, SaveOnSignal, TensorBoard
from experiments.training.checkpoint_file import set_aside_if_damaged
from experiments.training.lightning_module import LanguageModelRun
from experiments.training.measuring.effective_steps import effective_steps
from experiments.training.parallel import ALONE, Parallel
from experiments.training.strategies import environment, trainer_arguments

# Training without srun, on a login node or on one's own machine, is intended.
warnings.filterwarnings("ignore", message="The `srun` command is available")
# The loader is resumable: a batch is looked up by its step (LanguageModelRun).
warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")


def train(
    spec: RunSpec,
    corpus: Path,
    folder: Path,
    parallel: Parallel = ALONE,
    *,
    tensorboard: bool = False,
    requeue: Callable[[], None] | None = None,
) -> Summary | None:
    """Train a run to its end, resuming from its last checkpoint if there is one.

    A damaged checkpoint is renamed to last.ckpt.damaged, and the run starts from the first step;
    its history records this. If several processes train the run, each of them calls this function.

    Args:
        spec: everything the result depends on.
        corpus: the folder of the tokenised corpus.
        folder: the path of the run's TrainingFolder.
        parallel: the processes, and how they share the work.
        tensorboard: whether to write TensorBoard logs as well.
        requeue: requeues the job and does not return. If it is given, the run is saved when a
            signal announces the end of the job.

    Returns:
        The content of summary.json; None in all processes but the first.

    Raises:
        ConfigError: the corpus is too small, the processes cannot share the run, or the optimizer
            cannot be built.
        FileError: a file of the run cannot be read or written.
    """
    facts = read_facts(corpus)
    expected_text = getattr(spec.corpus.settings, "sha256", None)
    check_size(facts, spec.training.batch_size, spec.training.context)
    parallel.check(spec, ("parallel",))
    is_first = environment().global_rank() == 0
    files = TrainingFolder(folder)
    make_folder(folder)
    # Another process may still train the run, if its launcher was killed or if its job was
    # cancelled but has not ended. Wait for it.
    with locked(files.lock) if is_first else nullcontext():
        callbacks: list[L.Callback] = []
        if spec.training.log_effective_steps and is_first:
            # Before the callbacks that save a checkpoint, which holds its state.
            callbacks += effective_steps(spec, files.path, parallel)
        callbacks.append(SaveLast(files.checkpoint))
        if is_first:
            with atomic(files.spec) as path:
                path.write_text(
                    spec.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8"
                )
            callbacks.append(ProgressLine())
            if tensorboard:
                callbacks.append(TensorBoard(files.tensorboard))
        if requeue:
            callbacks.append(SaveOnSignal(files.checkpoint, requeue))
        metrics = MetricsLog(files.metrics_log)
        run = LanguageModelRun(spec, TokenBatches(corpus, spec.training.context), metrics, parallel)
        origin = provenance() | {
            "threads": torch.get_num_threads(),
            "processes": parallel.processes,
            "strategy": parallel.strategy if parallel.processes > 1 else None,
        }
        # Matrix products in fp32 are exact, without TF32, on every GPU; the settings of precision
        # are the way to faster ones.
        torch.set_float32_matmul_precision("highest")
        # By default torch's deterministic mode also fills every new tensor with NaN, which takes
        # time: https://docs.pytorch.org/docs/stable/deterministic.html
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
        # `fit` does this too, but `broadcast` needs the group of processes before it.
        trainer.strategy.connect(run)
        trainer.strategy.setup_environment()
        resumes = trainer.strategy.broadcast(is_first and _resumes(files))
        trainer.fit(run, ckpt_path=files.checkpoint if resumes else None, weights_only=True)
        if not is_first:
            return None
        tokens_per_step = spec.training.batch_size * spec.training.context
        summary = training_summary(metrics.rows, tokens_per_step, run.measured()) | {
            "corpus": {
                "name": facts.name,
                "text_sha256": facts.text_sha256,
                "as_recorded": facts.text_sha256 == expected_text if expected_text else None,
            },
            "provenance": origin,
        }
        files.write_result(summary, metrics)
    return summary


def _resumes(files: TrainingFolder) -> bool:
    """Return whether a run has a checkpoint to resume from; a damaged one is renamed."""
    aside = set_aside_if_damaged(files.checkpoint)
    if aside:
        problem = f"{files.checkpoint} is damaged: it is now {aside.name}, and the run starts again"
        print(problem, file=sys.stderr, flush=True)
        files.run.history.append("restarted", reason=problem)
    return files.checkpoint.exists()
