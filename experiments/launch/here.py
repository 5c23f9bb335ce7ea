"""Training a run on this machine, in a process of its own."""

import subprocess
from contextlib import suppress
from pathlib import Path

from experiments.launch.launch import Stopped
from experiments.launch.warm import start
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
    arguments = ["train", "--spec", spec_json, "--corpus", str(corpus)]
    arguments += ["--folder", str(run.training.path), "--threads", str(threads)]
    arguments += ["--tensorboard", str(int(tensorboard))]
    family = spec.model.family
    modules = [] if family == "gpt2" else [f"transformers.models.{family}.modeling_{family}"]
    run.history.append("started")
    log = run.train_log
    with log.open("ab") as file:
        began = file.tell()  # after the output of earlier attempts
        process = start("experiments", arguments, file.fileno(), modules)
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
    if code is None:  # the fork server was killed
        how = "exit code unknown"
    else:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Failure(Status.FAILED, f"{how}: {last_line(log, began)}", log)
