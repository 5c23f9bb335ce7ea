"""Specification of one run, and the experiment that it belongs to."""

from dataclasses import dataclass
from typing import Any, TypedDict

from experiments.corpus.settings import Corpus
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSpec
from experiments.plan.profile import TrainingSettings
from experiments.settings import Settings, digest


class RunSpec(Settings):
    """Everything that the result of a run depends on, plus the location of its corpus."""

    model_name: str
    model: ModelSettings
    corpus: Corpus
    optimizer: OptimizerSpec
    training: TrainingSettings
    seed: int

    @property
    def path(self) -> str:
        """Folder of the run, relative to `results/runs/`.

        The name is readable. A hash of the settings and of the corpus content makes it unique.
        """
        identity = self.model_dump(mode="json") | {"corpus": self.corpus.identity}
        return (
            f"{self.model_name}/{self.optimizer.name}/"
            f"lr{self.training.lr:g}_seed{self.seed}_{digest(identity)}"
        )


@dataclass(frozen=True)
class PlannedRun:
    """A run of one experiment."""

    experiment: str
    spec: RunSpec
    label: str  # name of the optimizer in tables and figures
    shared_lr: float  # training.lr of the model, before any sweep: the same for all optimizers
    argument: str = ""  # optimizer argument that the experiment varies; "" for none
    value: Any = None  # value of that argument

    def row(self) -> "PlanRow":
        """Return the run as a row of the plan, the table of runs that the analysis reads."""
        training = self.spec.training
        return {
            "experiment": self.experiment,
            "model": self.spec.model_name,
            "optimizer": self.spec.optimizer.name,
            "label": self.label,
            "lr": training.lr,
            "shared_lr": self.shared_lr,
            "argument": self.argument,
            "value": str(self.value) if self.argument else "",
            "seed": self.spec.seed,
            "dataset": self.spec.corpus.name,
            "planned_steps": training.steps,
            "batch_size": training.batch_size,
            "context": training.context,
            "warmup_steps": training.warmup_steps,
            "min_lr_ratio": training.min_lr_ratio,
            "weight_decay": training.weight_decay,
            "grad_clip_norm": training.grad_clip_norm,
            "run": self.spec.path,
        }


class PlanRow(TypedDict):
    """The columns of a plan (results/<profile>/plans/<digest>.csv), one row per planned run."""

    experiment: str
    model: str
    optimizer: str
    label: str
    lr: float
    shared_lr: float
    argument: str
    value: str
    seed: int
    dataset: str
    planned_steps: int
    batch_size: int
    context: int
    warmup_steps: int
    min_lr_ratio: float
    weight_decay: float
    grad_clip_norm: float
    run: str  # RunSpec.path
