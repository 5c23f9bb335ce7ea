"""The task of a SLURM job: it trains one run, and is requeued before the job's time limit.

submitit pickles the task when it submits the job, and again when it requeues the job.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from experiments.launch.slurm.settings import JobSettings
from experiments.plan.spec import RunSpec
from experiments.runs.folder import RunFolder


@dataclass(frozen=True)
class TrainingTask:
    """Training one run in a job.

    Args:
        spec: everything the result depends on.
        corpus: the folder of the tokenised corpus.
        run: the folder of the run.
        job: the settings of the job.
        tensorboard: whether to write TensorBoard logs.
    """

    spec: RunSpec
    corpus: Path
    run: RunFolder
    job: JobSettings
    tensorboard: bool = False

    def __call__(self) -> None:
        """Train the run to its end, on every process of the job."""
        import torch  # not at the top: launchers load no torch

        from experiments.training.lightning_import import import_lightning

        import_lightning()
        from experiments.training.train import train

        attempt, job = _attempt(), os.environ["SLURM_JOB_ID"]
        is_first = os.environ["SLURM_PROCID"] == "0"
        # `checkpoint` checks this too, but is not called when SLURM itself requeues the job.
        if attempt > self.job.max_attempts:
            if is_first:
                self.run.history.append("exhausted", job=job)
            raise RuntimeError(
                f"this is start {attempt}, but max_attempts is {self.job.max_attempts}"
            )
        if is_first:
            self.run.history.append("started", job=job, attempt=attempt)
        torch.set_num_threads(self.job.cpus_per_task)
        requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's handler
        train(
            self.spec,
            self.corpus,
            self.run.training.path,
            self.job,
            tensorboard=self.tensorboard,
            requeue=lambda: requeue(signal.SIGUSR2, None),
        )

    def checkpoint(self) -> DelayedSubmission | None:
        """Return the task that submitit requeues: this one, which resumes from its checkpoint.

        None if the job has no attempts left.
        """
        job = os.environ["SLURM_JOB_ID"]
        if _attempt() >= self.job.max_attempts:
            self.run.history.append("exhausted", job=job)
            return None
        self.run.history.append("requeued", job=job)
        return DelayedSubmission(self)


def _attempt() -> int:
    """Return the number of this start of the job, from 1."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) + 1
