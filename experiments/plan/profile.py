"""The keys of the YAML files in `experiments/config/`, with their types and bounds.

A profile (laptop.yaml, smoke.yaml, or the user's own file) lists the experiments to run. The three
registries beside it (models.yaml, optimizers.yaml, datasets.yaml) define the names that it uses.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from experiments.corpus.settings import CorpusSettings
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSettings
from experiments.plan.experiment import Experiment, Name, Tuned
from experiments.settings import ConfigError, Plain, Settings, Unique, added


class TrainingSettings(Settings):
    """Training settings of one model, shared by all optimizers that have none of their own."""

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
        default=0.1,
        ge=0,
        le=1,
        description="final learning rate divided by lr, of the schedules cosine and wsd",
    )
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up from zero to lr")
    schedule: Literal["cosine", "wsd", "constant"] = added(
        "cosine",
        description="learning rate after the warm-up: half a cosine; constant until a final decay"
        " (warmup-stable-decay); or constant",
    )
    decay_steps: int | None = added(
        None, gt=0, description="final steps in which the schedule wsd decays"
    )
    decay_shape: Literal["linear", "cosine", "sqrt"] = added(
        "linear", description="shape of the decay of the schedule wsd"
    )
    weight_decay: float = Field(
        default=0.1, ge=0, description="weight decay of tensors with two or more dimensions"
    )
    grad_clip_norm: float = Field(
        default=1.0, gt=0, description="gradients are clipped to this global L2 norm"
    )
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = Field(
        default="32-true", description="Lightning's precision setting"
    )
    activation_checkpointing: bool = added(
        False,
        description="whether the backward pass computes the activations of each block again, which"
        " takes time and saves memory",
    )
    compile: bool = added(
        False,
        description="whether torch.compile compiles each block; worth it on a GPU, but not for"
        " small models on a CPU",
    )
    val_every: int = Field(gt=0, description="steps between validations; divides steps")
    val_sequences: int = Field(
        gt=0, description="number of fixed validation sequences of each validation"
    )
    final_val_sequences: int | None = Field(
        default=None,
        gt=0,
        description="number of validation sequences after the last step, evenly spaced; by default"
        " the whole validation stream",
    )
    log_every: int = Field(default=1, gt=0, description="steps between logged metrics")
    log_effective_steps: bool = added(
        False,
        description="whether to log the distribution of PowerStep's and Adam's effective steps",
    )

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

    @model_validator(mode="after")
    def _only_wsd_has_a_decay(self) -> "TrainingSettings":
        if self.schedule == "wsd":
            longest = self.steps - self.warmup_steps
            if self.decay_steps is None:
                raise ConfigError(("decay_steps",), "is missing, but the schedule wsd needs it")
            if self.decay_steps > longest:
                raise ConfigError(
                    ("decay_steps",),
                    f"is {self.decay_steps}, but it must be at most steps - warmup_steps,"
                    f" {longest}",
                )
            return self
        for name in ("decay_steps", "decay_shape"):
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise ConfigError(
                    (name,),
                    f"is {getattr(self, name)!r}, but schedule is {self.schedule!r}: only wsd has"
                    f" {name}",
                )
        return self

    @property
    def tokens(self) -> int:
        """The number of tokens of the whole training."""
        return self.steps * self.batch_size * self.context

    @property
    def schedule_text(self) -> str:
        """The schedule as a cell of a table, such as "wsd (60 steps, linear)"."""
        if self.schedule != "wsd":
            return self.schedule
        return f"wsd ({self.decay_steps} steps, {self.decay_shape})"


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
    by_optimizer: dict[Name, dict[Literal["lr", Tuned], Plain[Any]]] = Field(
        default={},
        description="training settings of single optimizers, in all experiments; an experiment's"
        " own lr and training come before them",
    )
    papers: Unique[Name] = Field(
        default=("powerstep",),
        min_length=1,
        description="papers whose claims are judged, names of folders of analysis/papers",
    )
    ladder: Unique[Name] = Field(
        default=(),
        description="models of increasing size, all in the experiment learning_rate, over which"
        " the gap between optimizers is followed",
    )
    experiments: dict[Name, Experiment] = Field(
        min_length=1, description="grids of runs, by the name of the experiment"
    )
