"""What a job of SLURM does: train one run, and go back to the queue when it is told to stop.

submitit pickles the task when it submits it, and again when it requeues it.
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
    """One run, to be trained in a job.

    Args:
        spec: everything the result depends on.
        corpus: folder of the tokenised corpus.
        run: where its files go.
        job: what was asked for.
        tensorboard: whether to write TensorBoard logs.
    """

    spec: RunSpec
    corpus: Path
    run: RunFolder
    job: JobSettings
    tensorboard: bool = False

    def __call__(self) -> None:
        """Train the run to its end, on every process of the job."""
        import torch  # the launcher, which makes the task, does without

        from experiments.training.train import train

        attempt, job = _attempt(), os.environ["SLURM_JOB_ID"]
        is_first = os.environ["SLURM_PROCID"] == "0"
        if attempt > self.job.max_attempts:  # given back by SLURM itself, which does not count
            if is_first:
                self.run.history.append("exhausted", job=job)
            raise RuntimeError(
                f"this is start {attempt}, but max_attempts is {self.job.max_attempts}"
            )
        if is_first:
            self.run.history.append("started", job=job, attempt=attempt)
        torch.set_num_threads(self.job.cpus_per_task)
        requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's
        train(
            self.spec,
            self.corpus,
            self.run.training.path,
            self.job,
            tensorboard=self.tensorboard,
            requeue=lambda: requeue(signal.SIGUSR2, None),
        )

    def checkpoint(self) -> DelayedSubmission | None:
        """Tell submitit what to requeue: the same, which goes on from its checkpoint.

        Nothing where it has been started as often as it may.
        """
        job = os.environ["SLURM_JOB_ID"]
        if _attempt() >= self.job.max_attempts:
            self.run.history.append("exhausted", job=job)
            return None
        self.run.history.append("requeued", job=job)
        return DelayedSubmission(self)


def _attempt() -> int:
    """Return which start of its job this is, from 1."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) + 1
