"""The grid of runs of one experiment, as a profile describes it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from experiments.settings import ConfigError, Plain, Settings, Unique

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
_Rates = Unique[Annotated[float, Field(gt=0)]]
_Names = Annotated[Unique[str], Field(min_length=1)]
_Seeds = Annotated[
    Unique[Annotated[int, Field(ge=0, lt=2**64)]],  # bound of torch.manual_seed
    Field(min_length=1),
]


class ModelGrid(Settings):
    """The values of an experiment that differ for one of its models."""

    optimizers: _Names | None = Field(default=None, description="some of the experiment's")
    seeds: _Seeds | None = Field(default=None, description="seeds")
    rates: int | None = Field(default=None, gt=1, description="number of learning rates")


class Experiment(Settings):
    """A grid of runs: every combination of models, optimizers, seeds and varied settings.

    analysis.catalogue recognises the experiments of the paper by their names in the profile.
    """

    models: _Names = Field(description="names in models.yaml")
    optimizers: _Names = Field(description="names in optimizers.yaml")
    seeds: _Seeds = Field(description="seeds of the initial weights and of the order of the data")
    lr: Annotated[
        Annotated[_Rates, Tag("a list")]
        | Annotated[dict[str, Annotated[_Rates, Field(min_length=1)]], Tag("a mapping")],
        Discriminator(lambda value: "a mapping" if isinstance(value, dict) else "a list"),
    ] = Field(
        default=(),
        description="peak learning rates to sweep, or a mapping from optimizers and `default` to"
        " such lists; by default only the optimizer's training.lr",
    )
    rates: int | None = Field(
        default=None,
        gt=1,
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
        default={}, description="optimizers, seeds and numbers of rates of single models"
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
    def _every_optimizer_has_learning_rates(self) -> "Experiment":
        if not isinstance(self.lr, dict):
            return self
        for name in self.lr:
            if name not in ("default", *self.optimizers):
                raise ConfigError(
                    ("lr", name),
                    f"names no optimizer of the experiment: it must be one of default,"
                    f" {', '.join(self.optimizers)}",
                )
        for name in self.optimizers:
            if name not in self.lr and "default" not in self.lr:
                raise ConfigError(("lr", name), "is missing, and so is lr.default")
        return self

    @model_validator(mode="after")
    def _learning_rates_are_given_once(self) -> "Experiment":
        if self.lr and self.rates:
            raise ConfigError(("rates",), "stands beside lr, but there may be only one of the two")
        for name, grid in self.by_model.items():
            if name not in self.models:
                raise ConfigError(
                    ("by_model", name),
                    f"is no model of the experiment: it must be one of {', '.join(self.models)}",
                )
            for optimizer in grid.optimizers or ():
                if optimizer not in self.optimizers:
                    raise ConfigError(
                        ("by_model", name, "optimizers"),
                        f"has {optimizer!r}, but it must be one of {', '.join(self.optimizers)}",
                    )
            if grid.rates and not self.rates:
                raise ConfigError(("by_model", name, "rates"), "needs rates in the experiment too")
        return self

    @model_validator(mode="after")
    def _varies_arguments_or_training(self) -> "Experiment":
        if self.args and self.training:
            raise ConfigError(
                ("training",), "stands beside args, but an experiment may vary only one of the two"
            )
        return self

    def of_model(self, model: str) -> "Experiment":
        """Return the experiment with the values of one model."""
        own = self.by_model.get(model, ModelGrid()).model_dump(exclude_none=True)
        return self.model_copy(update=own)
