"""Training a run in a job of SLURM, submitted through submitit.

The launcher looks at the run's files, and once a minute, together with all others, at the queue.
It submits no job while the run has one, and waits for nothing without a bound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from experiments.launch.launch import Stopped, signals_held_back
from experiments.launch.slurm import commands
from experiments.launch.slurm.commands import SlurmError
from experiments.launch.slurm.jobs import job_name, parameters
from experiments.launch.slurm.queue import POLL_SECONDS, Queue, QueuedJob
from experiments.launch.slurm.task import TrainingTask
from experiments.runs.logs import error_of, last_line
from experiments.runs.summary import Failure, Status
from experiments.settings import ConfigError

_PATIENCE = 3600  # seconds that SLURM may leave the launcher without an answer
_LATE_FILES = 15  # seconds that a network file system may take to show what a job wrote
_ENDING = 300  # seconds that a cancelled job may take to leave the queue
_T = TypeVar("_T")


@dataclass(frozen=True)
class SlurmLauncher:
    """Has one run trained by SLURM.

    Args:
        task: the run, and what its job asks for.
        queue: shared with the other launchers.
    """

    task: TrainingTask
    queue: Queue

    def train(self) -> Failure | None:
        """Submit the run, or find the job that it has, and wait until it has ended.

        Returns:
            Why the run has no result, or None where it has one.

        Raises:
            ConfigError: SLURM refuses the job, or has not answered for an hour.
            Stopped: the launcher was told to stop; the job is cancelled.
        """
        try:
            return self._wait(self._living_job() or _until_slurm_answers(self._submit))
        except Stopped:
            self._cancel()
            raise

    @property
    def name(self) -> str:
        """The job's name."""
        return job_name(self.task.spec, self.task.run)

    def _cancel(self) -> None:
        """Cancel the job, if there is one."""
        event, job_id = self._last_submission()
        if event != "submitted":
            return
        try:
            commands.cancel(job_id)
        except SlurmError as error:
            _say(f"job {job_id} was not cancelled, and the same command finds it again: {error}")
        else:
            self.task.run.history.append("cancelled", job=job_id)

    def _living_job(self) -> str | None:
        """Return the job that an earlier launcher submitted and did not see to its end."""
        event, job_id = self._last_submission()
        if event == "submitted":
            return job_id
        if event == "cancelled":
            self._wait_until_gone(job_id)
        return None

    def _submit(self) -> str:
        """Return a job that is submitted now, or was submitted by a launcher that did not hear so.

        Raises:
            SlurmError: the controller could not be reached.
            ConfigError: it refuses the job.
        """
        run, job = self.task.run, self.task.job
        job_id = self._find() if self._last_submission()[0] == "submitting" else None
        with signals_held_back():
            if not job_id:
                run.history.append("submitting")
                executor = SlurmExecutor(run.slurm, max_num_timeout=job.max_attempts)
                executor.update_parameters(**parameters(job, self.name))
                try:
                    job_id = executor.submit(self.task).job_id
                except FailedJobError as failed:
                    error = SlurmError(str(failed))
                    if error.is_of_the_controller:
                        raise error from None
                    raise ConfigError((), f"SLURM refuses {job}: {error}") from None
            run.history.append("submitted", job=job_id)
        _say(f"job {job_id}: {job}")
        return job_id

    def _wait(self, job_id: str) -> Failure | None:
        """Wait until the run has a result, or its job has left the queue without one."""
        run = self.task.run
        began = answered = running = time.time()
        shown = None
        while not run.training.has_result:
            time.sleep(1)
            try:
                snapshot = self.queue.snapshot(since=time.time() - POLL_SECONDS)
                job = self._mine(snapshot.jobs.get(job_id))
                if job and job.state != "RUNNING" and self._has_waited_since(running):
                    return self._give_up(job)
                if job and "launch failed" in job.reason and "held" in job.reason:
                    # A node could not start it, or the controller forgot that it had; SLURM leaves
                    # it to the user to say that it may try again.
                    commands.release(job_id)
            except SlurmError as error:
                if time.time() - max(answered, run.last_sign_of_life) > _PATIENCE:
                    raise ConfigError(
                        (),
                        f"job {job_id} is left alone, since SLURM does not answer for an hour:"
                        f" {error}; the same command goes on with it",
                    ) from None
                continue
            answered = snapshot.time
            if job is None and snapshot.time > began:  # an older one does not have the job
                return self._end_of(job_id)
            if job and job.state == "RUNNING":
                running = snapshot.time
            if job and job != shown:
                shown = job
                _say(f"job {job_id}: {job.state} ({job.reason})")
        return None

    def _has_waited_since(self, time_: float) -> bool:
        return time.time() - time_ > 3600 * self.task.job.queue_hours

    def _give_up(self, job: QueuedJob) -> Failure:
        commands.cancel(job.id)
        why = f"{job.state} ({job.reason}) for {self.task.job.queue_hours:g} hours"
        return Failure(Status.TIMEOUT, f"job {job.id} was {why}", self._log(job.id))

    def _end_of(self, job_id: str) -> Failure | None:
        """Return why a run has no result whose job has left the queue."""
        run, deadline = self.task.run, time.time() + _LATE_FILES
        while time.time() < deadline:
            if run.training.has_result:
                return None
            time.sleep(1)
        log = self._log(job_id)
        exhausted = [event.get("job") for event in run.history.events("exhausted")]
        if job_id in exhausted:
            starts = f"{self.task.job.max_attempts} starts of {self.task.job.time_minutes} minutes"
            return Failure(Status.TIMEOUT, f"job {job_id} has not finished in {starts}", log)
        state = commands.end_of(job_id) or "gone"
        status = Status.TIMEOUT if state == "TIMEOUT" else Status.FAILED
        return Failure(status, f"job {job_id} {state}: {last_line(log)}", log)

    def _log(self, job_id: str) -> Path:
        """Return the log of the process that said why it failed, or else of the first."""
        logs = sorted(self.task.run.slurm.glob(f"{job_id}_*_log.err"))
        first = self.task.run.slurm / f"{job_id}_0_log.err"
        return next((log for log in [first, *logs] if error_of(log)), first)

    def _find(self) -> str | None:
        """Return the job of this run that is in the queue."""
        jobs = self.queue.snapshot(since=time.time()).jobs.values()
        return next((job.id for job in jobs if self._mine(job)), None)

    def _mine(self, job: QueuedJob | None) -> QueuedJob | None:
        """Return a job if it is this run's: SLURM may number jobs anew."""
        return job if job and job.name == self.name else None

    def _wait_until_gone(self, job_id: str) -> None:
        """Wait for the end of a job that was cancelled."""
        deadline = time.time() + _ENDING
        while True:
            jobs = _until_slurm_answers(lambda: self.queue.snapshot(since=time.time() - 5)).jobs
            if not self._mine(jobs.get(job_id)):
                return
            if time.time() > deadline:
                raise ConfigError(
                    (),
                    f"job {job_id} was cancelled, but is still {jobs[job_id].state}: when it has"
                    " ended, the same command goes on",
                )
            time.sleep(1)

    def _last_submission(self) -> tuple[str, str]:
        """Return how far the last submission came, and its job; failed if there is none."""
        events = self.task.run.history.events("submitting", "submitted", "cancelled", "failed")
        last = events[-1] if events else {"event": "failed"}
        return last["event"], last.get("job", "")


def _until_slurm_answers(ask: Callable[[], _T]) -> _T:
    """Return an answer of SLURM, also where its controller is just being started again."""
    deadline = time.time() + _PATIENCE
    while True:
        try:
            return ask()
        except SlurmError as error:
            if time.time() > deadline:
                raise ConfigError((), f"SLURM does not answer for an hour: {error}") from None
            _say(str(error))
            time.sleep(POLL_SECONDS)


def _say(text: str) -> None:
    """Print a line at once: the launcher's log is read while it waits."""
    print(text, flush=True)
