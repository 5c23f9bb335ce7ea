"""The learning-rate schedule."""

import math

from experiments.plan.profile import TrainingSettings


def lr_factor(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step as a part of the highest one.

    Linear from zero to 1 at `warmup_steps`, then half a cosine down to `min_lr_ratio` at the last
    step (arXiv:2605.10335, section 5.1).

    Args:
        step: counted from 1.
        settings: for steps, warmup_steps and min_lr_ratio.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps))
    cosine = (1 + math.cos(math.pi * done)) / 2
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine
