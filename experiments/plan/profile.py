"""What may stand in the YAML files of `experiments/config/`, checked key by key.

A profile (laptop.yaml, smoke.yaml, or a file of the user's own) names the experiments to run; the
three registries beside it (models.yaml, optimizers.yaml, datasets.yaml) say what the names mean.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments.corpus.settings import CorpusSettings
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSettings
from experiments.settings import ConfigError, Plain, Settings, Unique

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class TrainingSettings(Settings):
    """How one model is trained; the same for every optimizer."""

    steps: int = Field(gt=0, description="optimizer steps")
    batch_size: int = Field(gt=0, description="sequences a step")
    micro_batch_size: int | None = Field(
        default=None, gt=0, description="sequences a forward pass; divides batch_size, its default"
    )
    context: int = Field(gt=0, description="tokens a sequence")
    lr: float = Field(gt=0, description="highest learning rate of the schedule")
    min_lr_ratio: float = Field(
        default=0.1, ge=0, le=1, description="last learning rate, as a part of lr"
    )
    warmup_steps: int = Field(ge=0, description="steps of the linear warm-up from zero")
    weight_decay: float = Field(
        default=0.1, ge=0, description="decoupled, on tensors of two or more dimensions"
    )
    grad_clip_norm: float = Field(default=1.0, gt=0, description="largest global gradient norm")
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = Field(
        default="32-true", description="Lightning's precision setting"
    )
    val_every: int = Field(gt=0, description="steps between validations; divides steps")
    val_sequences: int = Field(gt=0, description="fixed validation windows")
    log_every: int = Field(default=1, gt=0, description="steps between rows of the metrics")

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainingSettings":
        if self.warmup_steps >= self.steps:
            raise ConfigError(
                ("warmup_steps",),
                f"is {self.warmup_steps}, but it must be below steps, {self.steps}",
            )
        if self.steps % self.val_every:
            raise ConfigError(
                ("val_every",), f"is {self.val_every}, but it must divide steps, {self.steps}"
            )
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ConfigError(
                ("micro_batch_size",),
                f"is {self.micro_batch_size}, but it must divide batch_size, {self.batch_size}",
            )
        return self


class Experiment(Settings):
    """Every combination of some models, optimizers, seeds, and learning rates or arguments.

    The analysis knows the paper's experiments by their names in the profile (analysis.catalogue).
    """

    models: Unique[str] = Field(min_length=1, description="names in models.yaml")
    optimizers: Unique[str] = Field(min_length=1, description="names in optimizers.yaml")
    seeds: Unique[Annotated[int, Field(ge=0, lt=2**64)]] = Field(  # what torch accepts
        min_length=1, description="of the initial weights and the order of the data"
    )
    lr: Unique[Annotated[float, Field(gt=0)]] = Field(
        default=(), description="highest learning rates, each in turn; none for the training's own"
    )
    args: dict[str, Annotated[Unique[Plain[Any]], Field(min_length=1)]] = Field(
        default={},
        description="arguments of the optimizers: each value in turn, the others as they were",
    )


class Layout(Settings):
    """The devices that the paper has for a model, and what they split between them (table 3).

    The state of a device is counted by it. What runs here are trained on stands in what they ask of
    a cluster (experiments.launch.slurm.settings).
    """

    devices: int = Field(default=1, gt=0, description="of all nodes together")
    tp: int = Field(default=1, gt=0, description="tensor parallelism: devices that share a matrix")
    pp: int = Field(default=1, gt=0, description="pipeline parallelism: devices that share layers")
    ep: int = Field(default=1, gt=0, description="expert parallelism: devices that share experts")

    @model_validator(mode="after")
    def _parts_divide_devices(self) -> "Layout":
        if self.devices % (self.tp * self.pp):
            raise ConfigError(
                ("tp",),
                f"× pp is {self.tp} × {self.pp}, but it must divide devices, {self.devices}",
            )
        copies = self.devices // (self.tp * self.pp)
        if copies % self.ep:
            raise ConfigError(
                ("ep",), f"is {self.ep}, but it must divide devices / (tp × pp), which is {copies}"
            )
        return self


class ModelTraining(Settings):
    """What one model is trained on and how, where that differs from the profile's."""

    dataset: str | None = Field(default=None, description="name in datasets.yaml")
    training: dict[str, Any] = Field(default={}, description="training settings")
    layout: Layout = Field(default=Layout(), description="devices and what they split")


class Registries(Settings):
    """What names mean. Each shared registry is a file of its own beside the profiles."""

    models: dict[Name, ModelSettings] = Field(default={})
    optimizers: dict[Name, OptimizerSettings] = Field(default={})
    datasets: dict[Name, CorpusSettings] = Field(default={})


class Profile(Registries):
    """One file of experiments. Its own registries add to the shared ones."""

    dataset: str = Field(description="name in datasets.yaml")
    training: dict[str, Any] = Field(description="training settings of every model")
    by_model: dict[Name, ModelTraining] = Field(
        default={}, description="what differs for a model; the same in all its experiments"
    )
    experiments: dict[Name, Experiment] = Field(min_length=1)
