"""What can only be checked once the corpora are built, still before any training."""

from pathlib import Path

from experiments.corpus.batches import check_size
from experiments.corpus.tokens import verify
from experiments.models.build import model_on_meta
from experiments.optimizers.build import build_optimizer, optimizer_on_meta
from experiments.plan.spec import PlannedRun
from experiments.settings import ConfigError


def check_runs(planned: list[PlannedRun], corpora: Path) -> None:
    """Hold each run against its corpus, and make each optimizer once without memory.

    Args:
        planned: the runs.
        corpora: folder that holds their corpora.

    Raises:
        ConfigError: a corpus is damaged or smaller than a batch, or an optimizer cannot be made.
    """
    specs = {run.spec.path: run.spec for run in planned}.values()
    facts = {path: verify(corpora / path) for path in {spec.corpus.path for spec in specs}}
    for spec in specs:
        check_size(facts[spec.corpus.path], spec.training.batch_size, spec.training.context)
    distinct: dict[tuple[str, str, float], PlannedRun] = {}
    for run in planned:
        spec = run.spec
        key = (spec.model_name, spec.optimizer.model_dump_json(), spec.training.weight_decay)
        distinct.setdefault(key, run)
    for run in distinct.values():
        _try_optimizer(run)


def _try_optimizer(run: PlannedRun) -> None:
    """Make a run's optimizer without memory; of a varied argument, say which experiment asks it.

    A class that reads parameters as it is made needs memory: then they have it, but no values.
    """
    spec, training = run.spec, run.spec.training
    try:
        try:
            optimizer_on_meta(spec.model, spec.optimizer, training.lr, training.weight_decay)
        except ConfigError as error:
            # torch raises a RuntimeError where values of the meta device are read.
            if not isinstance(error.__cause__, RuntimeError):
                raise
            model = model_on_meta(spec.model).to_empty(device="cpu")
            build_optimizer(spec.optimizer, model, training.lr, training.weight_decay)
    except ConfigError as error:
        within = ("experiments", run.experiment, "args") if run.argument else ()
        raise ConfigError(error.field, error.problem, within=within) from error
