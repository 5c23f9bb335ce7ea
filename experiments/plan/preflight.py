"""Checks between building the corpora and training the first run, and the levels of the corpora."""

from functools import cache
from pathlib import Path

from experiments.corpus.batches import check_epochs, check_size
from experiments.corpus.facts import read_facts
from experiments.corpus.levels import Levels, ngram_losses
from experiments.corpus.tokenizer import bytes_per_token
from experiments.corpus.tokens import read_tokens, verify
from experiments.models.build import model_on_meta
from experiments.optimizers.build import build_optimizer, optimizer_on_meta
from experiments.optimizers.settings import how_to_install
from experiments.plan.spec import PlannedRun, PlanRow
from experiments.settings import ConfigError, Keys


def check_runs(planned: list[PlannedRun], corpora: Path) -> list[str]:
    """Check every run: its corpus is intact and large enough, and its optimizer can be built.

    Each distinct optimizer is built once on the meta device, which allocates no memory.

    Args:
        planned: the runs.
        corpora: folder of the corpora.

    Returns:
        Warnings, each one sentence.

    Raises:
        ConfigError: a corpus is damaged, smaller than a batch, or read more than ten times; or an
            optimizer cannot be built.
    """
    specs = {run.spec.path: run.spec for run in planned}.values()
    facts = {path: verify(corpora / path) for path in {spec.corpus.path for spec in specs}}
    warnings = {}
    for spec in specs:
        corpus, training = facts[spec.corpus.path], spec.training
        check_size(corpus, training.batch_size, training.context)
        warnings[check_epochs(corpus, training.tokens)] = None
    distinct: dict[tuple[str, str, float], PlannedRun] = {}
    for run in planned:
        spec = run.spec
        key = (spec.model_name, spec.optimizer.model_dump_json(), spec.training.weight_decay)
        distinct.setdefault(key, run)
    for run in distinct.values():
        _check_optimizer(run)
    return [warning for warning in warnings if warning]


def checked_rows(planned: list[PlannedRun], corpora: Path) -> list[PlanRow]:
    """Return the rows of a plan: each run with the n-gram levels of as many tokens as it trains on.

    Args:
        planned: the runs, as `check_runs` accepts them.
        corpora: folder of the corpora.
    """

    @cache  # many runs share a corpus and a number of tokens
    def levels(corpus: Path, tokens: int) -> Levels:
        return ngram_losses(*read_tokens(corpus), tokens, read_facts(corpus).vocab_size)

    density = cache(bytes_per_token)
    rows = []
    for run in planned:
        tokens = run.spec.training.tokens
        corpus = corpora / run.spec.corpus.path
        unigram, bigram = levels(corpus, tokens)
        rows.append(
            PlanRow(
                **run.row(),
                unigram_loss=unigram,
                bigram_loss=bigram,
                bytes_per_token=density(corpus),
            )
        )
    return rows


def ready(planned: list[PlannedRun]) -> str:
    """Return the number of runs as a sentence."""
    certain = {run.spec.path for run in planned if not run.extension}
    others = {run.spec.path for run in planned} - certain
    may_follow = f", and up to {len(others)} may follow" if others else ""
    return f"{len(certain)} runs are ready to train{may_follow}"


def _check_optimizer(run: PlannedRun) -> None:
    """Build a run's optimizer on the meta device.

    Some classes read parameters in their constructor, which the meta device does not support
    (https://docs.pytorch.org/docs/stable/meta.html). They get parameters in CPU memory instead,
    with uninitialised values.

    Raises:
        ConfigError: the optimizer cannot be built. If an experiment varies what is wrong, the
            message names the experiment.
    """
    spec, training = run.spec, run.spec.training
    try:
        try:
            optimizer_on_meta(spec.model, spec.optimizer, training.lr, training.weight_decay)
        except ConfigError as error:
            # torch raises a RuntimeError if code reads values of a meta tensor.
            if not isinstance(error.__cause__, RuntimeError):
                raise
            model = model_on_meta(spec.model).to_empty(device="cpu")
            build_optimizer(spec.optimizer, model, training.lr, training.weight_decay)
    except ConfigError as error:
        field, within = _given_at(run, error.field)
        problem = error.problem
        if run.extra and isinstance(error.__cause__, ImportError):
            problem += f"; {how_to_install(run.extra)}"
        raise ConfigError(field, problem, within=within) from error


def _given_at(run: PlannedRun, field: Keys) -> tuple[Keys, Keys]:
    """Return the field of a run's setting in the profile, and the settings that it is part of."""
    if field == tuple(run.argument.split(".")):  # a varied training setting
        return field, ("experiments", run.experiment)
    if field[:1] == ("training",):
        name = field[1]
        is_own = getattr(run.own, name) != getattr(run.shared, name)
        return ("by_optimizer", run.spec.optimizer.name, name) if is_own else field, ()
    is_argument = run.argument and not run.argument.startswith("training.")
    return field, ("experiments", run.experiment, "args") if is_argument else ()
