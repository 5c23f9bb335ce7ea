"""Expansion of a profile into runs.

This module does not import torch, because the Snakefile imports it at every start.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import product
from typing import Any

import yaml

from experiments.corpus.settings import Corpus
from experiments.corpus.sources import fingerprint
from experiments.models.settings import ModelSettings
from experiments.optimizers.settings import OptimizerSettings, optimizer_spec
from experiments.optimizers.source_code import source_sha256
from experiments.plan.experiment import Experiment
from experiments.plan.profile import ModelTraining, Profile, TrainingSettings
from experiments.plan.spec import PlannedRun, RunSpec
from experiments.plan.sweeps.rates import peak_rates
from experiments.plan.tuning import changed
from experiments.settings import ConfigError, Keys, parse
from experiments.yaml_loader import StrictDumper


def plan(profile: Profile) -> list[PlannedRun]:
    """Return the runs of every experiment of `profile`, in the order of the file.

    If several experiments need the same run, it appears once for each of them, with equal specs.

    Raises:
        ConfigError: a name is not in its registry, settings contradict each other, or two
            optimizers have the same label.
    """
    for name in profile.by_model:
        _look_up(profile.models, name, ("by_model",))
    for name in profile.ladder:
        _look_up(profile.models, name, ("ladder",))
    for name in profile.by_optimizer:
        _look_up(profile.optimizers, name, ("by_optimizer",))
    # Both functions hash files. Many runs share the same files, so the hashes are cached.
    corpus_of, source_of = cache(partial(_corpus, profile)), cache(source_sha256)
    runs = [
        planned
        for name, experiment in profile.experiments.items()
        for planned in _expand(profile, name, experiment, corpus_of, source_of)
    ]
    _check_labels(runs)
    return runs


def dump_used(profile: Profile, planned: list[PlannedRun]) -> str:
    """Return a profile as YAML, with only the registry entries and settings that its runs use."""
    specs = [run.spec for run in planned]
    used = {
        "models": {spec.model_name for spec in specs},
        "optimizers": {spec.optimizer.name for spec in specs},
        "datasets": {spec.corpus.name for spec in specs},
    }
    values = profile.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for kind, names in used.items():
        entries = values.pop(kind)  # inserted again below, so after the experiments
        values[kind] = {name: entry for name, entry in entries.items() if name in names}
    own = values.pop("by_optimizer", {})
    if own := {name: each for name, each in own.items() if name in used["optimizers"]}:
        values["by_optimizer"] = own
    return yaml.dump(
        values,
        Dumper=StrictDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )


def _check_labels(runs: list[PlannedRun]) -> None:
    """Raise a ConfigError if two optimizers have the same label in tables and figures."""
    by_label = {}
    for run in runs:
        optimizer = run.spec.optimizer.name
        same_label = by_label.setdefault(run.label, optimizer)
        if same_label != optimizer:
            raise ConfigError(
                ("optimizers", optimizer, "label"),
                f"is {run.label!r}, but {same_label} has that label: it must be another one",
            )


def _expand(
    profile: Profile,
    name: str,
    experiment: Experiment,
    corpus_of: Callable[[str], Corpus],
    source_of: Callable[[str], str | None],
) -> list[PlannedRun]:
    """Return the runs of one experiment: every combination of its lists."""
    where = ("experiments", name)
    runs = []
    for model_name in experiment.models:
        rung = profile.ladder.index(model_name) + 1 if model_name in profile.ladder else 0
        model = _look_up(profile.models, model_name, (*where, "models"))
        corpus, shared = corpus_of(_dataset(profile, model_name)), _training(profile, model_name)
        _check_fit(profile, model_name, model, corpus, shared)
        _check_layout(profile, model_name, model)
        for optimizer_name in experiment.optimizers_of(model_name):
            entry = _look_up(profile.optimizers, optimizer_name, (*where, "optimizers"))
            changes = profile.by_optimizer.get(optimizer_name, {})
            own = changed(shared, changes, ("by_optimizer", optimizer_name))
            if experiment.log_effective_steps:
                own = own.model_copy(update={"log_effective_steps": True})
            for argument, value, args, training in _variations(experiment, own, where):
                optimizer = optimizer_spec(
                    optimizer_name,
                    entry,
                    model,
                    args,
                    steps=training.steps,
                    source_of=source_of,
                )
                of_optimizer = experiment.grid(model_name, optimizer_name)
                expected = _expected_lr(entry, model, changes, own)
                rates = peak_rates(of_optimizer, own.lr, expected)
                for (lr, extension), seed in product(rates, of_optimizer.seeds):
                    spec = RunSpec(
                        model_name=model_name,
                        model=model,
                        corpus=corpus,
                        optimizer=optimizer,
                        training=training.model_copy(update={"lr": lr}),
                        seed=seed,
                    )
                    runs.append(
                        PlannedRun(
                            name,
                            spec,
                            entry.label,
                            shared,
                            own,
                            argument,
                            value,
                            rung,
                            extension,
                            entry.extra,
                        )
                    )
    return runs


def _expected_lr(
    entry: OptimizerSettings,
    model: ModelSettings,
    changes: Mapping[str, Any],
    own: TrainingSettings,
) -> float:
    """Return the best learning rate expected of an optimizer; by_optimizer comes first."""
    return own.lr if "lr" in changes or not entry.best_lr else entry.best_lr.at(model.width)


def _variations(
    experiment: Experiment, own: TrainingSettings, where: Keys
) -> Iterator[tuple[str, Any, dict[str, Any], TrainingSettings]]:
    """Yield what an experiment varies: its name, its value, the args and the training settings."""
    if not (experiment.args or experiment.training):
        yield "", None, {}, own
    for argument, values in experiment.args.items():
        for value in values:
            yield argument, value, {argument: value}, own
    for setting, values in experiment.training.items():
        for value in values:
            training = changed(own, {setting: value}, (*where, "training"))
            yield f"training.{setting}", getattr(training, setting), {}, training


def _dataset(profile: Profile, model_name: str) -> str:
    """Return the name of a model's dataset, which is the same in every experiment."""
    own = profile.by_model.get(model_name, ModelTraining()).dataset
    field = ("by_model", model_name, "dataset") if own else ("dataset",)
    _look_up(profile.datasets, own or profile.dataset, field)
    return own or profile.dataset


def _corpus(profile: Profile, dataset: str) -> Corpus:
    settings = profile.datasets[dataset]
    return Corpus(name=dataset, settings=settings, sources=fingerprint(dataset, settings))


def _training(profile: Profile, model_name: str) -> TrainingSettings:
    """Return a model's shared training settings, which are the same in every experiment."""
    own = profile.by_model.get(model_name, ModelTraining()).training
    field = ("by_model", model_name, "training") if own else ("training",)
    return parse(TrainingSettings, profile.training | own, field)


def _look_up(registry: dict[str, Any], name: str, field: Keys) -> Any:
    """Return a registry entry, or raise a ConfigError about `field` if there is none."""
    if name not in registry:
        raise ConfigError(field, f"has {name!r}, but it must be one of {', '.join(registry)}")
    return registry[name]


def _check_fit(
    profile: Profile, name: str, model: ModelSettings, corpus: Corpus, training: TrainingSettings
) -> None:
    """Raise a ConfigError if the sequences or the vocabulary are too large for the model."""
    if training.context > model.context:
        is_own = "context" in profile.by_model.get(name, ModelTraining()).training
        raise ConfigError(
            (*(("by_model", name) if is_own else ()), "training", "context"),
            f"is {training.context}, but {name} takes at most {model.context} tokens",
        )
    if corpus.settings.vocab_size > model.vocab_size:
        raise ConfigError(
            ("datasets", corpus.name, "vocab_size"),
            f"is {corpus.settings.vocab_size}, but the embedding of {name} has only"
            f" {model.vocab_size} rows",
        )


def _check_layout(profile: Profile, name: str, model: ModelSettings) -> None:
    """Raise a ConfigError if expert parallelism does not divide the model's experts."""
    layout = profile.by_model.get(name, ModelTraining()).layout
    experts = getattr(model, "experts", 1)
    if experts % layout.ep:
        raise ConfigError(
            ("by_model", name, "layout", "ep"),
            f"is {layout.ep}, but it must divide the experts of {name},"
            f" {experts if experts > 1 else 'which has none'}",
        )
