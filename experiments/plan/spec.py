"""One run: everything its result depends on, and the experiment that asks for it."""

from dataclasses import dataclass
from typing import Any

from experiments.corpus.settings import Corpus
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSpec
from experiments.plan.profile import TrainingSettings
from experiments.settings import Settings, digest


class RunSpec(Settings):
    """Everything that a run's result depends on, and where its corpus is read from."""

    model_name: str
    model: ModelSettings
    corpus: Corpus
    optimizer: OptimizerSpec
    training: TrainingSettings
    seed: int

    @property
    def path(self) -> str:
        """Folder of the run, below `results/runs/`: readable, and unique by a digest."""
        identity = self.model_dump(mode="json") | {"corpus": self.corpus.identity}
        return (
            f"{self.model_name}/{self.optimizer.name}/"
            f"lr{self.training.lr:g}_seed{self.seed}_{digest(identity)}"
        )


@dataclass(frozen=True)
class PlannedRun:
    """A run, and the experiment that asked for it."""

    experiment: str
    spec: RunSpec
    label: str
    shared_lr: float  # the learning rate that all optimizers of this model have in common
    argument: str = ""  # of the optimizer, where the experiment varies one
    value: Any = None  # of that argument

    def row(self) -> dict[str, Any]:
        """Return what the analysis needs to know before the run is trained, as plain values."""
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
