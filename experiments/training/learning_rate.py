"""The learning-rate schedule."""

import math

from experiments.plan.profile import TrainingSettings


def lr_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step as a fraction of the peak learning rate.

    The fraction rises linearly from 0 to 1 at `warmup_steps`, then falls along half a cosine to
    `min_lr_ratio` at the last step (arXiv:2605.10335, section 5.1).

    Args:
        step: number of the step, from 1.
        settings: gives steps, warmup_steps and min_lr_ratio.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps))
    cosine = (1 + math.cos(math.pi * done)) / 2
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine
