"""Training a run in a SLURM job, submitted through submitit.

The launcher watches the run's files and the queue, which all launchers together ask for once a
minute. It submits no second job while the run has one, and every wait has a time limit.
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

_SLURM_TIMEOUT = 3600  # seconds without an answer from SLURM after which a launcher gives up
_FILES_TIMEOUT = 15  # seconds after which a job's files must be visible on a network file system
_CANCEL_TIMEOUT = 300  # seconds after which a cancelled job must have left the queue
_T = TypeVar("_T")


@dataclass(frozen=True)
class SlurmLauncher:
    """The launcher of one run on SLURM.

    Args:
        task: the run, and the settings of its job.
        queue: the user's queue, shared with the other launchers.
    """

    task: TrainingTask
    queue: Queue

    def train(self) -> Failure | None:
        """Submit a job for the run, or adopt its earlier job, and wait until it has ended.

        Returns:
            Why the run has no result, or None if it has one.

        Raises:
            ConfigError: SLURM refuses the job, or has not answered for an hour, or a cancelled job
                does not end.
            Stopped: the launcher was stopped; the job is cancelled.
        """
        try:
            return self._wait(self._unfinished_job() or _until_slurm_answers(self._submit))
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
            _say(f"job {job_id} was not cancelled, and the same command will adopt it: {error}")
        else:
            self.task.run.history.append("cancelled", job=job_id)

    def _unfinished_job(self) -> str | None:
        """Return the job that an earlier launcher left in the queue; None if there is none."""
        event, job_id = self._last_submission()
        if event == "submitted":
            return job_id
        if event == "cancelled":
            self._wait_until_gone(job_id)
        return None

    def _submit(self) -> str:
        """Submit a job, or adopt one whose launcher died before it got the id; return the id.

        Raises:
            SlurmError: the controller could not be reached.
            ConfigError: the controller refuses the job.
        """
        run, job = self.task.run, self.task.job
        job_id = self._job_in_queue() if self._last_submission()[0] == "submitting" else None
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
        """Wait until the run has a result or its job has ended; return why there is no result."""
        run = self.task.run
        began = answered = running = time.time()
        shown = None
        while not run.training.has_result:
            time.sleep(1)
            try:
                snapshot = self.queue.snapshot(since=time.time() - POLL_SECONDS)
                job = self._if_own(snapshot.jobs.get(job_id))
                if job and job.state != "RUNNING" and self._has_waited_too_long(running):
                    return self._cancel_waiting(job)
                if job and "launch failed" in job.reason and "held" in job.reason:
                    # A node could not start the job, or the controller lost track of the start.
                    # SLURM then holds the job until the user releases it.
                    commands.release(job_id)
            except SlurmError as error:
                if time.time() - max(answered, run.last_sign_of_life) > _SLURM_TIMEOUT:
                    raise ConfigError(
                        (),
                        f"job {job_id} is left alone, since SLURM does not answer for an hour:"
                        f" {error}; the same command goes on with it",
                    ) from None
                continue
            answered = snapshot.time
            if job is None and snapshot.time > began:  # older snapshots may lack the job
                return self._end_of(job_id)
            if job and job.state == "RUNNING":
                running = snapshot.time
            if job and job != shown:
                shown = job
                _say(f"job {job_id}: {job.state} ({job.reason})")
        return None

    def _has_waited_too_long(self, since: float) -> bool:
        """Return whether `since`, in seconds as time.time(), is `queue_hours` ago."""
        return time.time() - since > 3600 * self.task.job.queue_hours

    def _cancel_waiting(self, job: QueuedJob) -> Failure:
        """Cancel a job that has waited too long."""
        commands.cancel(job.id)
        why = f"{job.state} ({job.reason}) for {self.task.job.queue_hours:g} hours"
        return Failure(Status.TIMEOUT, f"job {job.id} was {why}", self._log(job.id))

    def _end_of(self, job_id: str) -> Failure | None:
        """Return why a run has no result once its job has left the queue; None if it has one."""
        run, deadline = self.task.run, time.time() + _FILES_TIMEOUT
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
        """Return the log of the first process that logged an error, or else of process 0."""
        logs = sorted(self.task.run.slurm.glob(f"{job_id}_*_log.err"))
        first = self.task.run.slurm / f"{job_id}_0_log.err"
        return next((log for log in [first, *logs] if error_of(log)), first)

    def _job_in_queue(self) -> str | None:
        """Return the job of this run in the queue; None if there is none."""
        jobs = self.queue.snapshot(since=time.time()).jobs.values()
        return next((job.id for job in jobs if self._if_own(job)), None)

    def _if_own(self, job: QueuedJob | None) -> QueuedJob | None:
        """Return a job if it is this run's, else None: SLURM may use an id twice."""
        return job if job and job.name == self.name else None

    def _wait_until_gone(self, job_id: str) -> None:
        """Wait until a cancelled job has left the queue.

        Raises:
            ConfigError: it has not, or SLURM has not answered.
        """
        deadline = time.time() + _CANCEL_TIMEOUT
        while True:
            jobs = _until_slurm_answers(lambda: self.queue.snapshot(since=time.time() - 5)).jobs
            if not self._if_own(jobs.get(job_id)):
                return
            if time.time() > deadline:
                raise ConfigError(
                    (),
                    f"job {job_id} was cancelled, but is still {jobs[job_id].state}: when it has"
                    " ended, the same command goes on",
                )
            time.sleep(1)

    def _last_submission(self) -> tuple[str, str]:
        """Return the last event of a submission and its job; "failed" and "" before the first."""
        events = self.task.run.history.events("submitting", "submitted", "cancelled", "failed")
        last = events[-1] if events else {"event": "failed"}
        return last["event"], last.get("job", "")


def _until_slurm_answers(ask: Callable[[], _T]) -> _T:
    """Ask SLURM until it answers, for example while its controller is being restarted.

    Raises:
        ConfigError: it has not answered for an hour.
    """
    deadline = time.time() + _SLURM_TIMEOUT
    while True:
        try:
            return ask()
        except SlurmError as error:
            if time.time() > deadline:
                raise ConfigError((), f"SLURM does not answer for an hour: {error}") from None
            _say(str(error))
            time.sleep(POLL_SECONDS)


def _say(text: str) -> None:
    """Print a line without a buffer: users read the log while the launcher waits."""
    print(text, flush=True)
