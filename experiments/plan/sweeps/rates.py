"""The peak learning rates of an optimizer in an experiment, and those that may follow."""

import math
from collections.abc import Iterable, Mapping, Sequence

from experiments.plan.experiment import OptimizerGrid

_UNIT = 1e-3  # rates around an expected best are this one times a power of two


def peak_rates(grid: OptimizerGrid, own: float, expected: float) -> list[tuple[float, int]]:
    """Return the peak learning rates of an optimizer in an experiment.

    Args:
        grid: gives the learning rates, or their number, or neither.
        own: the optimizer's learning rate where the experiment gives none.
        expected: the best learning rate that is expected of it; the centre of `rates`.

    Returns:
        Each rate with its extension: 0 for a rate that is always trained. A rate of extension k may
        follow as the k-th above the others, or the |k|-th below them if k is negative.
    """
    if not grid.rates:
        return [(lr, 0) for lr in grid.lr or (own,)]
    lowest = round(math.log2(expected / _UNIT)) - (grid.rates - 1) // 2
    return [
        (_UNIT * 2.0 ** (lowest + step), min(step, 0) or max(step - grid.rates + 1, 0))
        for step in range(-grid.extend, grid.rates + grid.extend)
    ]


def is_needed(
    extension: int, rates: Iterable[tuple[float, int]], losses: Mapping[float, Sequence[float]]
) -> bool:
    """Return whether a rate that may follow is needed: the best rate so far is the outermost.

    The best rate has the lowest mean loss. If no rate has a finite one, a lower rate is needed.

    Args:
        extension: of the rate, not 0.
        rates: all rates with their extensions, as `peak_rates` returns them.
        losses: final losses by learning rate, one for each seed; inf for a run that diverged, and
            NaN for one that has no result.

    Returns:
        False also if a rate before it has no result, so that it cannot be decided yet.
    """
    side = 1 if extension > 0 else -1
    tried = [lr for lr, of in rates if of == 0 or 0 < of * side < extension * side]
    means = {lr: sum(losses[lr]) / len(losses[lr]) for lr in tried}
    if any(math.isnan(mean) for mean in means.values()):
        return False
    outermost = max(tried) if side > 0 else min(tried)
    if all(math.isinf(mean) for mean in means.values()):
        return side < 0
    return min(means, key=means.__getitem__) == outermost
