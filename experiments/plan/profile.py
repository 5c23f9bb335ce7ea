"""The keys of the YAML files in `experiments/config/`, with their types and bounds.

A profile (laptop.yaml, smoke.yaml, or the user's own file) lists the experiments to run. The three
registries beside it (models.yaml, optimizers.yaml, datasets.yaml) define the names that it uses.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments.corpus.settings import CorpusSettings
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSettings
from experiments.settings import ConfigError, Plain, Settings, Unique

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class TrainingSettings(Settings):
    """Training settings of one model; the same for every optimizer."""

    steps: int = Field(gt=0, description="number of optimizer steps")
    batch_size: int = Field(gt=0, description="sequences per optimizer step")
    micro_batch_size: int | None = Field(
        default=None,
        gt=0,
        description="sequences per forward pass, a divisor of batch_size; by default batch_size",
    )
    context: int = Field(gt=0, description="tokens per sequence")
    lr: float = Field(gt=0, description="peak learning rate of the schedule")
    min_lr_ratio: float = Field(
        default=0.1, ge=0, le=1, description="final learning rate divided by lr"
    )
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up from zero to lr")
    weight_decay: float = Field(
        default=0.1, ge=0, description="weight decay of tensors with two or more dimensions"
    )
    grad_clip_norm: float = Field(
        default=1.0, gt=0, description="gradients are clipped to this global L2 norm"
    )
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = Field(
        default="32-true", description="Lightning's precision setting"
    )
    val_every: int = Field(gt=0, description="steps between validations; divides steps")
    val_sequences: int = Field(gt=0, description="number of fixed validation sequences")
    log_every: int = Field(default=1, gt=0, description="steps between logged metrics")

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
    """A grid of runs: every combination of models, optimizers, seeds, learning rates and arguments.

    analysis.catalogue recognises the experiments of the paper by their names in the profile.
    """

    models: Unique[str] = Field(min_length=1, description="names in models.yaml")
    optimizers: Unique[str] = Field(min_length=1, description="names in optimizers.yaml")
    seeds: Unique[Annotated[int, Field(ge=0, lt=2**64)]] = Field(  # bound of torch.manual_seed
        min_length=1, description="seeds of the initial weights and of the order of the data"
    )
    lr: Unique[Annotated[float, Field(gt=0)]] = Field(
        default=(), description="peak learning rates to sweep; by default only training.lr"
    )
    args: dict[str, Annotated[Unique[Plain[Any]], Field(min_length=1)]] = Field(
        default={},
        description="values to try for each argument of the optimizers, one argument at a time",
    )


class Layout(Settings):
    """The paper's devices for a model, and how they split it (arXiv:2605.10335, table 3).

    It serves only to compute the optimizer state per device. The processes of our own runs are set
    by experiments.launch.slurm.settings.JobSettings.
    """

    devices: int = Field(default=1, gt=0, description="number of devices on all nodes")
    tp: int = Field(
        default=1, gt=0, description="tensor parallelism: devices that split each matrix"
    )
    pp: int = Field(
        default=1, gt=0, description="pipeline parallelism: devices that split the layers"
    )
    ep: int = Field(
        default=1, gt=0, description="expert parallelism: devices that split the experts"
    )

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
    """Settings of one model that override those of the profile."""

    dataset: str | None = Field(default=None, description="name in datasets.yaml")
    training: dict[str, Any] = Field(
        default={}, description="training settings that differ from those of the profile"
    )
    layout: Layout = Field(
        default=Layout(), description="devices of the paper and how they split the model"
    )


class Registries(Settings):
    """Models, optimizers and datasets by name. Each shared registry is a file in `config/`."""

    models: dict[Name, ModelSettings] = Field(default={}, description="models by name")
    optimizers: dict[Name, OptimizerSettings] = Field(default={}, description="optimizers by name")
    datasets: dict[Name, CorpusSettings] = Field(default={}, description="datasets by name")


class Profile(Registries):
    """A profile: one file of experiments. It may add entries to the shared registries."""

    dataset: str = Field(description="name in datasets.yaml")
    training: dict[str, Any] = Field(
        description="training settings of all models (TrainingSettings)"
    )
    by_model: dict[Name, ModelTraining] = Field(
        default={}, description="overrides for single models, in all experiments"
    )
    experiments: dict[Name, Experiment] = Field(
        min_length=1, description="grids of runs, by the name of the experiment"
    )
