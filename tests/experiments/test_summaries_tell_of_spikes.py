"""A summary tells whether the validation curve collapsed, also where the run diverged or failed."""

import json
from math import inf, nan

import pytest

from experiments.runs.summary import Failure, Status, failure_summary, training_summary


def rows_of(*losses, train_loss=8.0, final=None):
    """Return the rows of a run that is validated after every second step."""
    times = {"step_seconds": 0.1, "optimizer_seconds": 0.01}
    rows = []
    for number, loss in enumerate(losses):
        step = 2 * number + 1
        plain = {"tokens": 64 * step, "train_loss": train_loss} | times
        rows += [{"step": step} | plain, {"step": step + 1, "val_loss": loss} | plain]
    if final is not None:
        rows[-1] |= {"final_val_loss": final, "final_val_error": 0.01}
    return rows


def summary_of(*losses, **keys):
    """Return the summary of such a run, as it comes back from JSON without NaN and infinity."""
    summary = training_summary(rows_of(*losses, **keys), 64, {})
    return json.loads(json.dumps(summary, allow_nan=False))


@pytest.mark.parametrize(
    ("losses", "spikes", "largest", "rise"),
    [
        ([7.0, 6.0, 5.0, 4.5], 0, 0.0, 0.0),
        ([7.0, 6.0, 6.09, 5.0, 5.05], 0, 0.09, 0.05),  # no rise of more than 0.1 nats
        ([7.0, 6.0, 6.2, 6.5, 6.3, 5.0], 1, 0.5, 0.0),  # consecutive ones are one spike
        ([7.0, 6.0, 6.2, 6.05, 6.3, 5.0], 2, 0.3, 0.0),  # it came back in between
        ([7.0, 6.0, 5.0, 5.2, 4.9, 5.1], 2, 0.2, 0.2),  # the second is above another lowest loss
        ([7.0, 5.0, 7.9], 1, 2.9, 2.9),  # a collapse that is no divergence
    ],
)
def test_spikes_are_rises_above_the_lowest_loss_so_far(losses, spikes, largest, rise):
    summary = summary_of(*losses, final=losses[-1])
    assert summary["status"] == "completed"
    assert summary["spikes"] == spikes
    assert summary["largest_spike"] == pytest.approx(largest)
    assert summary["rise"] == pytest.approx(rise)
    assert summary["last_val_loss"] == losses[-1]
    assert summary["best_val_loss"] == min(losses)


@pytest.mark.parametrize("loss", [nan, inf])
def test_a_loss_that_is_not_finite_is_a_spike_of_unknown_size(loss):
    summary = summary_of(7.0, 6.0, loss, final=loss)
    assert summary["status"] == "diverged"
    names = ("final_val_loss", "final_val_error", "last_val_loss", "largest_spike", "rise")
    assert [summary[name] for name in names] == [None] * 5
    assert (summary["spikes"], summary["best_val_loss"]) == (1, 6.0)


def test_a_run_that_ends_above_its_start_is_diverged_and_its_rise_is_known():
    summary = summary_of(7.0, 6.0, 8.2, final=8.1)
    assert (summary["status"], summary["final_val_loss"]) == ("diverged", None)
    assert summary["spikes"] == 1
    assert summary["rise"] == summary["largest_spike"] == pytest.approx(2.2)


def test_a_run_that_ends_before_its_last_step_is_diverged():
    rows = [*rows_of(7.0), {"step": 3, "tokens": 192, "train_loss": nan}]
    rows[-1] |= {"step_seconds": 0.1, "optimizer_seconds": 0.01}
    summary = training_summary(rows, 64, {})
    assert (summary["status"], summary["final_val_loss"]) == ("diverged", None)
    assert (summary["spikes"], summary["last_val_loss"], summary["rise"]) == (0, 7.0, 0.0)


@pytest.mark.parametrize("final", [nan, inf])
def test_a_final_loss_that_is_not_finite_is_a_divergence(final):
    assert summary_of(7.0, 6.0, final=final)["status"] == "diverged"
    assert summary_of(7.0, 6.0, final=6.1)["status"] == "completed"


@pytest.mark.parametrize(("losses", "spikes", "rise"), [([], 0, None), ([7.0, 6.0, 6.4], 1, 0.4)])
def test_a_failed_run_has_what_was_known_until_then(losses, spikes, rise, tmp_path):
    failure = Failure(Status.FAILED, "a reason", tmp_path / "log")
    summary = failure_summary(failure, rows_of(*losses), {"attempts": 1, "job": None})
    assert summary["final_val_loss"] is summary["final_val_error"] is None
    assert (summary["spikes"], summary["rise"]) == (spikes, rise and pytest.approx(rise))
