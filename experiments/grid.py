"""From a profile to the set of runs it needs. Imports no torch: the Snakefile reads this."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import Field, TypeAdapter

from experiments.config import Experiment, Profile, TrainingSettings
from experiments.corpus_settings import CorpusSettings
from experiments.model_settings import ModelSettings
from experiments.settings import ConfigError, Settings, parse
from experiments.sources import fingerprint


class Corpus(Settings):
    """A dataset's settings with the fingerprint of its sources: what its tokens depend on."""

    name: str
    settings: CorpusSettings
    sources: dict[str, str] = Field(description="version or sha256 of each source")

    @property
    def path(self) -> str:
        """Folder of the tokens, below `results/corpora/`."""
        return f"{self.name}_{digest(self)}"


class OptimizerSpec(Settings):
    """An importable optimizer class with its arguments, all of them plain values."""

    name: str
    class_path: str = Field(alias="class")
    args: dict[str, Any]


class RunSpec(Settings):
    """Everything that a run's result depends on. Its digest is the run's identity."""

    model_name: str
    model: ModelSettings
    corpus: Corpus
    optimizer: OptimizerSpec
    training: TrainingSettings
    seed: int

    @property
    def path(self) -> str:
        """Folder of the run, below `results/runs/`: readable, and unique by its digest."""
        return (
            f"{self.model_name}/{self.optimizer.name}/"
            f"lr{self.training.lr:g}_seed{self.seed}_{digest(self)}"
        )


@dataclass(frozen=True)
class PlannedRun:
    """A run, and the experiment that asked for it."""

    experiment: str
    spec: RunSpec
    label: str


def plan(profile: Profile) -> list[PlannedRun]:
    """Expand every experiment of `profile`, in the order of the file.

    A run that several experiments need appears once for each of them, with the same spec.

    Raises:
        ConfigError: a name is not in its registry, or settings do not fit together.
    """
    runs = [
        planned
        for name, experiment in profile.experiments.items()
        for planned in _expand(profile, name, experiment)
    ]
    _check_comparable(runs)
    return runs


def _check_comparable(runs: list[PlannedRun]) -> None:
    """Refuse what would stand in one cell of a table though it does not belong together."""
    by_model, by_label = {}, {}
    for run in runs:
        optimizer = run.spec.optimizer.name
        same_label = by_label.setdefault(run.label, optimizer)
        if same_label != optimizer:
            raise ConfigError(
                f"optimizers.{optimizer}.label is {run.label!r}, but {same_label} has that label:"
                " it must be another one"
            )
        first = by_model.setdefault(run.spec.model_name, run)
        if (first.spec.training, first.spec.corpus) != (run.spec.training, run.spec.corpus):
            raise ConfigError(
                f"experiments.{run.experiment} trains {run.spec.model_name} with other settings"
                f" than experiments.{first.experiment}, but a profile must train a model with one"
                " dataset and one training: give one of them a profile of its own"
            )


def _expand(profile: Profile, name: str, experiment: Experiment) -> list[PlannedRun]:
    where = f"experiments.{name}"
    training = parse(TrainingSettings, profile.training | experiment.training, where, "training")
    corpus = _corpus(profile, experiment.dataset or profile.dataset, where)
    runs = []
    for model_name in experiment.models:
        model = _look_up(profile.models, model_name, f"{where}.models")
        _check_fit(where, model_name, model, corpus, training)
        for optimizer_name in experiment.optimizers:
            entry = _look_up(profile.optimizers, optimizer_name, f"{where}.optimizers")
            args = {
                key: _resolve(value, model, f"optimizers.{optimizer_name}.args.{key}")
                for key, value in entry.args.items()
            }
            optimizer = OptimizerSpec(name=optimizer_name, class_path=entry.class_path, args=args)
            runs += [
                PlannedRun(
                    name,
                    RunSpec(
                        model_name=model_name,
                        model=model,
                        corpus=corpus,
                        optimizer=optimizer,
                        training=training,
                        seed=seed,
                    ),
                    entry.label,
                )
                for seed in experiment.seeds
            ]
    return runs


def _corpus(profile: Profile, name: str, where: str) -> Corpus:
    settings = _look_up(profile.datasets, name, f"{where}.dataset")
    return Corpus(name=name, settings=settings, sources=fingerprint(name, settings))


def _look_up(registry: dict[str, Any], name: str, field: str) -> Any:
    if name not in registry:
        raise ConfigError(f"{field} has {name!r}, but it must be one of {', '.join(registry)}")
    return registry[name]


def _resolve(value: Any, model: ModelSettings, field: str) -> Any:
    """Replace "$model.<field>" by that field of the model."""
    if not (isinstance(value, str) and value.startswith("$")):
        return value
    accepted = [f"$model.{name}" for name in ModelSettings.model_fields]
    if value not in accepted:
        raise ConfigError(f"{field} is {value!r}, but it must be one of {', '.join(accepted)}")
    return getattr(model, value.removeprefix("$model."))


def _check_fit(
    where: str, name: str, model: ModelSettings, corpus: Corpus, training: TrainingSettings
) -> None:
    if training.context > model.context:
        raise ConfigError(
            f"{where}: training.context is {training.context}, but {name} takes at most"
            f" {model.context} tokens"
        )
    if corpus.settings.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{where}: datasets.{corpus.name}.vocab_size is {corpus.settings.vocab_size}, but the"
            f" embedding of {name} has only {model.vocab_size} rows"
        )


def digest(value: Settings | list[PlannedRun]) -> str:
    """Return eight hexadecimal digits of the sha256 of `value`, whatever the order of its keys."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
