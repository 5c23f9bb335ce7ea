"""Running the commands of SLURM that a launcher needs."""

import re
import subprocess

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")  # all that must be on PATH


class SlurmError(RuntimeError):
    """A command of SLURM failed; the text is its message."""

    @property
    def is_of_the_controller(self) -> bool:
        """Whether the controller could not be reached: a retry may succeed."""
        return bool(re.search("Unable to contact|timed out|gave no answer", str(self)))


def end_of(job_id: str) -> str:
    """Return the state in which a job ended, such as TIMEOUT; "" if SLURM does not know it."""
    try:
        text = run_command("scontrol", "--oneliner", "show", "job", job_id)
    except SlurmError:
        return ""
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
    return fields.get("JobState", "")


def cancel(job_id: str) -> None:
    """Cancel a job unless it has ended.

    Raises:
        SlurmError: the controller does not answer.
    """
    run_command("scancel", "--quiet", job_id)


def release(job_id: str) -> None:
    """Release a held job, so that it may start.

    Raises:
        SlurmError: the controller does not answer, or refuses.
    """
    run_command("scontrol", "release", job_id)


def run_command(*command: str, stdin: str | None = None) -> str:
    """Return the output of a command.

    Raises:
        SlurmError: the command failed, or took more than two minutes.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=120,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in two minutes") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SlurmError(f"{command[0]}: {lines[-1] if lines else 'no reason given'}")
    return done.stdout
