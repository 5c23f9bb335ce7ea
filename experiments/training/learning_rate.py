"""The learning-rate schedules."""

import math

from experiments.plan.profile import TrainingSettings


def lr_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step as a fraction of the peak learning rate.

    The fraction rises linearly from 0 to 1 at `warmup_steps`. After that, the schedule decides:

    - cosine: it falls along half a cosine (arXiv:2605.10335, section 5.1);
    - wsd: it stays 1, and falls in the last `decay_steps` (arXiv:2405.18392);
    - constant: it stays 1.

    A fall ends at `min_lr_ratio` with the last step.

    Args:
        step: number of the step, from 1.
        settings: gives the schedule, its numbers of steps and its end.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "wsd":
        length, shape = settings.decay_steps, settings.decay_shape
    else:
        length, shape = settings.steps - settings.warmup_steps, "cosine"
    done = min(1.0, max(0.0, (step - (settings.steps - length)) / length))
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * _remaining(done, shape)


def _remaining(done: float, shape: str) -> float:
    """Return the part of a decay that is still to come, after the fraction `done` of its steps."""
    if shape == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1 - (math.sqrt(done) if shape == "sqrt" else done)
