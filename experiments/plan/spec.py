"""Specification of one run, and the experiment that it belongs to."""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from experiments.corpus.settings import Corpus
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSpec
from experiments.plan.profile import TrainingSettings
from experiments.settings import Settings, digest

# Version of the training's arithmetic: runs of another version have other results. It is part of a
# run's name, so they are not taken for done; experiments.launch.outdated tells of them.
#   2: kernels for the steps of powerstep; the head's loss in chunks; initial weights by seed and
#      name; peak memory without what the process had before.
ARITHMETIC = 2


class RunSpec(Settings):
    """Everything that the result of a run depends on, plus the location of its corpus."""

    arithmetic: Literal[ARITHMETIC] = ARITHMETIC
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
    shared: TrainingSettings  # of the model, the same for all optimizers
    own: TrainingSettings  # of the optimizer, before its experiment varies any of them
    argument: str = ""  # what the experiment varies: an argument, or "training.<setting>"
    value: Any = None  # value of that argument or setting
    rung: int = 0  # place of its model in the profile's ladder, from 1; 0 if it is not in it
    extension: int = 0  # of its learning rate, experiments.plan.sweeps.rates.peak_rates
    extra: str | None = None  # the extra of pyproject.toml that installs the optimizer

    def row(self) -> "RunRow":
        """Return the run as a row of the plan; the plan's file has also the n-gram levels."""
        training = self.spec.training
        shared, own = _hyperparameters(self.shared), _hyperparameters(self.own)
        trained = _hyperparameters(training) | {"lr": self.shared.lr}  # shared_lr is a column
        return {
            "experiment": self.experiment,
            "model": self.spec.model_name,
            "optimizer": self.spec.optimizer.name,
            "label": self.label,
            "lr": training.lr,
            "shared_lr": self.shared.lr,
            "argument": self.argument,
            "value": str(self.value) if self.argument else "",
            "rung": self.rung,
            "extension": self.extension,
            "seed": self.spec.seed,
            "dataset": self.spec.corpus.name,
            "planned_steps": training.steps,
            "batch_size": training.batch_size,
            "context": training.context,
            "warmup_steps": training.warmup_steps,
            "min_lr_ratio": training.min_lr_ratio,
            "weight_decay": training.weight_decay,
            "grad_clip_norm": training.grad_clip_norm,
            "schedule": training.schedule_text,
            "shared": _differing(shared, trained),
            "own": _differing(own, shared),
            "run": self.spec.path,
        }


class RunRow(TypedDict):
    """The columns of a planned run that its settings give."""

    experiment: str
    model: str
    optimizer: str
    label: str
    lr: float
    shared_lr: float
    argument: str
    value: str
    rung: int  # place of the model in the profile's ladder, from 1; 0 if it is not in it
    extension: int  # 0, or the number that peak_rates gives to a learning rate that may follow
    seed: int
    dataset: str
    planned_steps: int
    batch_size: int
    context: int
    warmup_steps: int
    min_lr_ratio: float
    weight_decay: float
    grad_clip_norm: float
    schedule: str
    shared: str  # shared values of the settings in which the run deviates, as JSON; "" for none
    own: str  # the optimizer's own values of the shared settings, as JSON; "" for none
    run: str  # RunSpec.path


class PlanRow(RunRow):
    """The columns of a plan (results/<profile>/plans/<digest>.csv), one row per planned run.

    Properties of the text are known once the corpus is built (experiments.corpus).
    """

    unigram_loss: float  # nats per token
    bigram_loss: float
    bytes_per_token: float  # of the validation text


def _hyperparameters(training: TrainingSettings) -> dict[str, Any]:
    """Return the training settings that the table of hyperparameters shows, in its order."""
    shown = ["batch_size", "context", "lr", "steps", "warmup_steps", "weight_decay"]
    shown += ["grad_clip_norm", "min_lr_ratio"]
    settings = {name: getattr(training, name) for name in shown}
    return settings | {"schedule": training.schedule_text}


def _differing(settings: dict[str, Any], others: dict[str, Any]) -> str:
    """Return those of `settings` that differ from `others` as JSON; "" if there are none."""
    differing = {name: value for name, value in settings.items() if value != others[name]}
    return json.dumps(differing) if differing else ""
