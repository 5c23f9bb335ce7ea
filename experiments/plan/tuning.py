"""Training settings of one optimizer, and those that experiments vary."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import Field

from experiments.plan.profile import TrainingSettings
from experiments.settings import ConfigError, Keys, Settings, parse

_COUNTS = ("steps", "warmup_steps", "decay_steps", "val_every")  # numbers of optimizer steps


class _Length(Settings):
    """The settings that give a run its number of tokens."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)


def changed(
    training: TrainingSettings, changes: Mapping[str, Any], field: Keys
) -> TrainingSettings:
    """Return training settings with some of them changed.

    Another number of steps keeps the shape of the schedule, and another batch_size alone keeps the
    number of tokens as well: the other numbers of steps change in proportion, except those in
    `changes`. Another schedule than wsd drops the decay of wsd.

    Args:
        training: the settings.
        changes: new values, by the names of the settings.
        field: where the new values are given, for errors.

    Raises:
        ConfigError: a new value is not accepted.
    """
    if not changes:
        return training
    values = training.model_dump(exclude_unset=True)
    if changes.get("schedule", "wsd") != "wsd":
        for name in ("decay_steps", "decay_shape"):
            values.pop(name, None)
    kept = {name: values[name] for name in _COUNTS if values.get(name) and name not in changes}
    values |= _rescaled(kept, training, changes, field)
    return parse(TrainingSettings, values | dict(changes), field)


def _rescaled(
    counts: Mapping[str, int], old: TrainingSettings, changes: Mapping[str, Any], field: Keys
) -> dict[str, int]:
    """Return numbers of steps in proportion to changed steps, or to a changed batch size."""
    given = {name: changes[name] for name in _Length.model_fields if name in changes}
    new = parse(_Length, {"steps": old.steps, "batch_size": old.batch_size} | given, field)
    by_steps = "steps" in changes
    factor = Fraction(new.steps, old.steps)
    if not by_steps:
        factor = Fraction(old.batch_size, new.batch_size)
    scaled = {name: count * factor for name, count in counts.items()}
    for name, count in counts.items():
        if scaled[name].denominator == 1:
            continue
        problem = (
            f"is {new.steps}, but {name} changes in proportion, and {count} × {new.steps} /"
            f" {old.steps} is not a whole number"
            if by_steps
            else f"is {new.batch_size}, but to keep the number of tokens it must divide {count} ×"
            f" {old.batch_size}, which is {name} × batch_size without it"
        )
        raise ConfigError((*field, "steps" if by_steps else "batch_size"), problem)
    return {name: int(count) for name, count in scaled.items()}
