"""Training one run: from its spec to metrics.parquet and summary.json."""

import fcntl
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from experiments.callbacks import ProgressLine, SaveLast
from experiments.corpus import read_facts
from experiments.data import TokenBatches, check_size
from experiments.files import atomic
from experiments.grid import RunSpec
from experiments.machine import provenance
from experiments.module import LanguageModelRun
from experiments.settings import ConfigError

# It is: a batch is looked up by its step (experiments.module).
warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")


def train(spec: RunSpec, corpus: Path, folder: Path) -> dict[str, Any]:
    """Train a run to its end, going on from its last checkpoint if there is one.

    Args:
        spec: everything the result depends on.
        corpus: folder of the tokenised corpus.
        folder: of this run; gets spec.json, metrics.jsonl and last.ckpt as it goes, and at its end
            metrics.parquet and summary.json.

    Returns:
        The summary, as it stands in summary.json.

    Raises:
        ConfigError: the corpus is too small, the optimizer cannot be made, or another process is
            training this run.
    """
    facts = read_facts(corpus)
    expected_text = getattr(spec.corpus.settings, "sha256", None)
    check_size(facts, spec.training.batch_size, spec.training.context)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_trainer_of(folder):
        with atomic(folder / "spec.json") as path:
            path.write_text(spec.model_dump_json(indent=2, by_alias=True) + "\n")
        run = LanguageModelRun(spec, TokenBatches(corpus, spec.training.context), folder)
        origin = provenance() | {"threads": torch.get_num_threads()}
        checkpoint = folder / "last.ckpt"
        # Deterministic algorithms would also fill every fresh tensor with NaN, which takes time.
        torch.utils.deterministic.fill_uninitialized_memory = False
        trainer = L.Trainer(
            max_steps=spec.training.steps,
            max_epochs=-1,
            accelerator="auto",
            devices=1,
            precision=spec.training.precision,
            val_check_interval=spec.training.val_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            deterministic="warn",
            callbacks=[SaveLast(checkpoint), ProgressLine()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        trainer.fit(run, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
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
            path.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


@contextmanager
def _only_trainer_of(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back if this process dies."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is training the run in {folder}") from None
        yield
