"""Training a run on this machine, in a subprocess."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from experiments.launch.launch import Stopped
from experiments.plan.spec import RunSpec
from experiments.runs.folder import RunFolder
from experiments.runs.logs import last_line
from experiments.runs.summary import Failure, Status

_STOP_TIMEOUT = 60  # seconds that training may take to end after SIGTERM


def train_here(
    spec: RunSpec, corpus: Path, run: RunFolder, threads: int, tensorboard: bool
) -> Failure | None:
    """Train a run to its end.

    Args:
        spec: everything the result depends on.
        corpus: the folder of the tokenised corpus.
        run: the folder of the run.
        threads: number of processor threads.
        tensorboard: whether to write TensorBoard logs.

    Returns:
        Why the run has no result, or None if it has one.
    """
    spec_json = spec.model_dump_json(ensure_ascii=True)  # the locale may lack characters
    command = [sys.executable, "-m", "experiments", "train", "--spec", spec_json]
    command += [
        "--corpus",
        str(corpus),
        "--folder",
        str(run.training.path),
        "--threads",
        str(threads),
    ]
    command += ["--tensorboard", str(int(tensorboard))]
    run.history.append("started")
    log = run.train_log
    with log.open("a", encoding="utf-8") as file:
        began = file.tell()  # after the output of earlier attempts
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            code = process.wait()
        except Stopped:
            run.history.append("cancelled")
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_STOP_TIMEOUT)
            process.kill()
            raise
    if run.training.has_result:
        return None
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Failure(Status.FAILED, f"{how}: {last_line(log, began)}", log)
