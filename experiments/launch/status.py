"""The status of every run of a profile, read from its files; SLURM is not asked."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from statistics import median

from tabulate import tabulate

from experiments.files import read_lines
from experiments.launch.outdated import outdated_sentence
from experiments.launch.slurm.queue import Queue
from experiments.plan.spec import PlannedRun, RunSpec
from experiments.runs.folder import ResultsFolder, RunFolder
from experiments.runs.metrics import is_row

_COLUMNS = [
    "model",
    "optimizer",
    "lr",
    "seed",
    "status",
    "step",
    "loss",
    "tokens/s",
    "left",
    "job",
    "starts",
    "note",
]
_LAST_ROWS = 20  # number of logged steps whose median time gives the speed


def status(planned: Sequence[PlannedRun], results: ResultsFolder) -> str:
    """Return a table with one line per run, and the number of runs with each status.

    Results of another version of the arithmetic are told of between the two.

    Args:
        planned: the runs, in the order of the table.
        results: the folder `results/`.
    """
    # Several experiments can share a run. Show an entry that always trains it and names a varied
    # argument, if there is one: it sorts after the others, and so replaces them.
    entries = sorted(planned, key=lambda run: (not run.extension, run.argument))
    runs = {run.spec.path: run for run in entries}
    runs = [runs[path] for path in dict.fromkeys(run.spec.path for run in planned)]
    jobs = Queue(results.slurm_queue).last().jobs
    reasons = {job.id: job.reason for job in jobs.values() if job.state == "PENDING"}
    rows = [_row(run, results.run(run.spec.path), reasons) for run in runs]
    counts = Counter(row["status"] for row in rows)
    table = tabulate(
        [[row.get(key, "") for key in _COLUMNS] for row in rows],
        headers=_COLUMNS,
        disable_numparse=[_COLUMNS.index(name) for name in ("model", "optimizer", "lr", "note")],
    )
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    outdated = outdated_sentence((run.spec for run in runs), results)
    return "\n\n".join(filter(None, [table, outdated, f"{len(rows)} runs: {total}"]))


def _row(planned: PlannedRun, run: RunFolder, reasons: dict[str, str]) -> dict[str, object]:
    """Return the known facts about a run, by column."""
    spec, argument = planned.spec, f", {planned.argument} {planned.value}"
    starts = run.history.events("started")
    row = {
        "model": spec.model_name,
        "optimizer": spec.optimizer.name + (argument if planned.argument else ""),
        "lr": spec.training.lr,
        "seed": spec.seed,
        "status": "may follow" if planned.extension else "pending",
        "starts": len(starts) or "",
    }
    if damaged := run.damaged:
        names = " and ".join(path.name for path in damaged)
        return row | {"note": f"{names} damaged; the same command makes the result again"}
    if summary := run.summary:
        row |= {"status": summary["status"], "step": summary.get("steps", "")}
        row |= {"loss": _number(summary.get("final_val_loss")), "job": run.launch["job"]}
        return row | {"note": summary.get("reason", "")}
    progress = _progress(spec, run)
    events = run.history.events("submitted", "started", "requeued", "cancelled", "failed")
    last = events[-1] if events else {"event": "none"}
    row |= {"step": progress.get("step", ""), "job": last.get("job", "")}
    if last["event"] == "started":
        row |= progress | {"status": "running"}
    elif last["event"] in ("submitted", "requeued"):
        row["note"] = reasons.get(last.get("job"), "")
    if last["event"] in ("submitted", "started", "requeued") and not run.has_launcher:
        row["note"] = "its launcher has ended; the same command resumes the run"
    return row


def _progress(spec: RunSpec, run: RunFolder) -> dict[str, object]:
    """Return step, loss, speed and remaining time of a run in training."""
    lines = read_lines(run.training.metrics_log, last=_LAST_ROWS)
    rows = [row for row in lines if is_row(row) and {"train_loss", "step_seconds"} <= row.keys()]
    if not rows:
        return {}
    training, seconds = spec.training, median(row["step_seconds"] for row in rows)
    step = rows[-1]["step"]
    left = timedelta(seconds=round((training.steps - step) * seconds))
    return {
        "step": step,
        "loss": _number(rows[-1]["train_loss"]),
        "tokens/s": f"{training.batch_size * training.context / seconds:,.0f}",
        "left": str(left),
    }


def _number(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.3f}"
