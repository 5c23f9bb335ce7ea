"""Training settings of one optimizer, and the learning rates and settings that experiments vary."""

from collections.abc import Mapping
from typing import Any

from experiments.plan.profile import Experiment, TrainingSettings
from experiments.settings import ConfigError, Keys, parse

_COUNTS = ("steps", "warmup_steps", "decay_steps", "val_every")  # numbers of optimizer steps


def learning_rates(experiment: Experiment, optimizer: str, lr: float) -> tuple[float, ...]:
    """Return the peak learning rates of an optimizer in an experiment.

    Args:
        experiment: gives lists of learning rates, or none.
        optimizer: its name.
        lr: the optimizer's learning rate where the experiment gives none.
    """
    if isinstance(experiment.lr, dict):
        own = experiment.lr.get(optimizer)
        return own if own is not None else experiment.lr["default"]
    return experiment.lr or (lr,)


def changed(
    training: TrainingSettings, changes: Mapping[str, Any], field: Keys
) -> TrainingSettings:
    """Return training settings with some of them changed.

    Another batch_size keeps the number of tokens: the numbers of steps change in proportion, except
    those in `changes`. Another schedule than wsd drops the decay of wsd.

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
    if "batch_size" in changes:
        size = parse(
            TrainingSettings, values | {"batch_size": changes["batch_size"]}, field
        ).batch_size
        kept = {name: values[name] for name in _COUNTS if name in values and name not in changes}
        values |= _rescaled(kept, training.batch_size, size, field)
    return parse(TrainingSettings, values | dict(changes), field)


def _rescaled(counts: Mapping[str, int], old: int, new: int, field: Keys) -> dict[str, int]:
    """Return numbers of steps of a new batch size, which take as many tokens as the old ones."""
    for name, count in counts.items():
        if count * old % new:
            raise ConfigError(
                (*field, "batch_size"),
                f"is {new}, but to keep the number of tokens it must divide {count} × {old},"
                f" which is {name} × batch_size without it",
            )
    return {name: count * old // new for name, count in counts.items()}
