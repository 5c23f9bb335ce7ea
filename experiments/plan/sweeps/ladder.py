"""Checks of a profile's ladder: models of increasing size, each swept over learning rates."""

from collections.abc import Sequence
from itertools import pairwise

from experiments.models.build import model_on_meta
from experiments.plan.profile import Profile
from experiments.plan.spec import PlannedRun
from experiments.settings import ConfigError

LEAST_RATES = 3  # of each optimizer at each size, for a curve with a minimum
_SWEEP = "learning_rate"


def check_ladder(profile: Profile, planned: Sequence[PlannedRun]) -> None:
    """Check that the models of a ladder are swept, and that their sizes increase.

    Raises:
        ConfigError: a model of the ladder is not in the experiment learning_rate, an optimizer has
            too few learning rates there, or a model is not larger than the one before it.
    """
    sweep = [run for run in planned if run.experiment == _SWEEP]
    sizes = []
    for model in profile.ladder:
        rates: dict[str, set[float]] = {}
        for spec in (run.spec for run in sweep if run.spec.model_name == model):
            rates.setdefault(spec.optimizer.name, set()).add(spec.training.lr)
            settings = spec.model
        if not rates:
            raise ConfigError(
                ("ladder",), f"has {model!r}, but it must be a model of experiments.{_SWEEP}"
            )
        for optimizer, lrs in rates.items():
            if len(lrs) < LEAST_RATES:
                raise ConfigError(
                    ("experiments", _SWEEP),
                    f"has {len(lrs)} learning rate{'s' * (len(lrs) > 1)} for {optimizer} and"
                    f" {model}, but a model of the ladder needs at least {LEAST_RATES}",
                )
        sizes.append(sum(tensor.numel() for tensor in model_on_meta(settings).parameters()))
    for (model, size), (following, next_size) in pairwise(zip(profile.ladder, sizes, strict=True)):
        if next_size <= size:
            raise ConfigError(
                ("ladder",),
                f"has {following!r} with {next_size} parameters after {model!r} with {size}, but"
                " its sizes must increase",
            )
