"""The grid of runs of one experiment, as a profile describes it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from experiments.settings import ConfigError, Keys, Plain, Settings, Unique

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# Training settings that an experiment may vary, and that an optimizer may have for itself.
Tuned = Literal[
    "steps",
    "weight_decay",
    "warmup_steps",
    "grad_clip_norm",
    "schedule",
    "decay_steps",
    "decay_shape",
    "min_lr_ratio",
    "batch_size",
]
_Names = Annotated[Unique[str], Field(min_length=1)]
_Lrs = Unique[Annotated[float, Field(gt=0)]]
_SomeLrs = Annotated[_Lrs, Field(min_length=1)]
_Seeds = Annotated[
    Unique[Annotated[int, Field(ge=0, lt=2**64)]],  # bound of torch.manual_seed
    Field(min_length=1),
]
_Number = Annotated[int, Field(gt=1)]
_by_form = Discriminator(lambda value: "mapping" if isinstance(value, dict) else "value")
_T = TypeVar("_T")
# A value for all optimizers, or a mapping from optimizers and `default` to such values.
_Each = Annotated[Annotated[_T, Tag("value")] | Annotated[dict[str, _T], Tag("mapping")], _by_form]
_PER_OPTIMIZER = ("lr", "seeds", "rates")  # fields that may be such mappings


@dataclass(frozen=True)
class OptimizerGrid:
    """The learning rates and seeds of one optimizer and model in an experiment.

    Args:
        lr: peak learning rates; () for the optimizer's own one.
        rates: number of peak learning rates around the expected best one, instead of `lr`.
        extend: how many rates may follow at either end of `rates`.
        seeds: the seeds.
    """

    lr: tuple[float, ...]
    rates: int | None
    extend: int
    seeds: tuple[int, ...]


class ModelGrid(Settings):
    """The values of an experiment that differ for one of its models."""

    optimizers: _Names | None = Field(default=None, description="some of the experiment's")
    seeds: _Each[_Seeds] | None = Field(default=None, description="seeds")
    lr: _Each[_SomeLrs] | None = Field(default=None, description="peak learning rates")
    rates: _Each[_Number] | None = Field(default=None, description="number of rates")


class Experiment(Settings):
    """A grid of runs: every combination of models, optimizers, seeds and varied settings.

    lr, seeds and rates may each be a mapping from optimizers and `default` to their values.
    analysis.catalogue recognises the experiments of the paper by their names in the profile.
    """

    models: _Names = Field(description="names in models.yaml")
    optimizers: _Names = Field(description="names in optimizers.yaml")
    seeds: _Each[_Seeds] = Field(
        description="seeds of the initial weights and of the order of the data"
    )
    lr: Annotated[
        Annotated[_Lrs, Tag("value")] | Annotated[dict[str, _SomeLrs], Tag("mapping")], _by_form
    ] = Field(
        default=(),
        description="peak learning rates to sweep; by default only the optimizer's training.lr",
    )
    rates: _Each[_Number] | None = Field(
        default=None,
        description="instead of lr: number of peak learning rates to sweep, each twice the one"
        " before, around the best one that is expected of the optimizer (best_lr in"
        " optimizers.yaml)",
    )
    extend: int = Field(
        default=2,
        ge=0,
        description="how many rates may follow at either end of `rates`, one after the other,"
        " while the best rate is the outermost",
    )
    by_model: dict[Name, ModelGrid] = Field(
        default={}, description="optimizers, seeds, lr and rates of single models"
    )
    args: dict[str, Annotated[Unique[Plain[Any]], Field(min_length=1)]] = Field(
        default={},
        description="values to try for each argument of the optimizers, one argument at a time",
    )
    training: dict[Tuned, Annotated[Unique[Plain[Any]], Field(min_length=1)]] = Field(
        default={},
        description="values to try for each training setting, one setting at a time",
    )
    log_effective_steps: bool = Field(
        default=False,
        description="whether its runs log the distributions of effective steps",
    )

    @model_validator(mode="after")
    def _every_optimizer_has_its_values(self) -> "Experiment":
        if self.lr and self.rates:
            raise ConfigError(("rates",), "stands beside lr, but there may be only one of the two")
        _check_mappings(self, self.optimizers, ())
        for name, grid in self.by_model.items():
            where = ("by_model", name)
            if name not in self.models:
                raise ConfigError(
                    where,
                    f"is no model of the experiment: it must be one of {', '.join(self.models)}",
                )
            for optimizer in grid.optimizers or ():
                if optimizer not in self.optimizers:
                    raise ConfigError(
                        (*where, "optimizers"),
                        f"has {optimizer!r}, but it must be one of {', '.join(self.optimizers)}",
                    )
            for given, other in (("rates", "lr"), ("lr", "rates")):
                if getattr(grid, given) and (getattr(self, other) or getattr(grid, other)):
                    raise ConfigError(
                        (*where, given),
                        f"stands beside {other}, but there may be only one of the two",
                    )
            _check_mappings(grid, grid.optimizers or self.optimizers, where)
        return self

    @model_validator(mode="after")
    def _varies_arguments_or_training(self) -> "Experiment":
        if self.args and self.training:
            raise ConfigError(
                ("training",), "stands beside args, but an experiment may vary only one of the two"
            )
        return self

    def optimizers_of(self, model: str) -> tuple[str, ...]:
        """Return the optimizers of a model."""
        return self.by_model.get(model, ModelGrid()).optimizers or self.optimizers

    def grid(self, model: str, optimizer: str) -> OptimizerGrid:
        """Return the learning rates and seeds of a model and an optimizer."""
        own = self.by_model.get(model, ModelGrid())

        def value(name: str) -> Any:
            found = getattr(own, name) or getattr(self, name)
            return found.get(optimizer, found.get("default")) if isinstance(found, dict) else found

        return OptimizerGrid(value("lr"), value("rates"), self.extend, value("seeds"))


def _check_mappings(grid: Experiment | ModelGrid, optimizers: tuple[str, ...], at: Keys) -> None:
    """Check that mappings from optimizers have a value for each, and for no others."""
    for field in _PER_OPTIMIZER:
        given = getattr(grid, field)
        if not isinstance(given, dict):
            continue
        for name in given:
            if name not in ("default", *optimizers):
                raise ConfigError(
                    (*at, field, name),
                    "names no optimizer of the experiment: it must be one of default,"
                    f" {', '.join(optimizers)}",
                )
        for name in optimizers:
            if name not in given and "default" not in given:
                raise ConfigError((*at, field, name), f"is missing, and so is {field}.default")
