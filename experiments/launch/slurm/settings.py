"""The settings of SLURM jobs: a default, and changes to it for single models.

They change where a run is trained and not its result, so they are no part of the run's identity.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from experiments.settings import ConfigError, Items, Keys, Plain, Settings, parse
from experiments.training.parallel import Parallel
from experiments.yaml_loader import located, read_yaml

_Text = Annotated[str, Field(min_length=1)]
# Options of sbatch that other settings or the launcher set.
_RESERVED = {
    "account",
    "cpus-per-task",
    "error",
    "gpus-per-node",
    "job-name",
    "mem",
    "nodes",
    "ntasks-per-node",
    "open-mode",
    "output",
    "partition",
    "qos",
    "requeue",
    "signal",
    "time",
    "wckey",
}


class JobSettings(Parallel):
    """The settings of one run's job: its resources, and its time limits."""

    partition: _Text | None = Field(default=None, description="none for the site's default")
    account: _Text | None = Field(default=None, description="account that is charged for the job")
    qos: _Text | None = Field(default=None, description="quality of service")
    cpus_per_task: int = Field(default=1, gt=0, description="processor threads of a process")
    gpus_per_task: int = Field(default=0, ge=0, le=1, description="1 to train on GPUs")
    memory_gb: float = Field(gt=0, description="memory of each node, in GB")
    time_minutes: int = Field(
        gt=0, description="time limit of one attempt, such as 240; longer runs take several"
    )
    save_seconds: int = Field(
        default=90, gt=0, description="a run is saved and requeued so long before the limit"
    )
    max_attempts: int = Field(
        default=20, gt=0, description="most starts of a job, requeues included"
    )
    queue_hours: float = Field(
        default=168, gt=0, description="longest wait in the queue; then the job is cancelled"
    )
    sbatch: dict[_Text, Plain[str | int | bool]] = Field(
        default={}, description="more options of sbatch, by their long names"
    )
    setup: Items[_Text] = Field(
        default=(), description="shell commands before the run, such as module load"
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> "JobSettings":
        if self.save_seconds >= 60 * self.time_minutes:
            raise ConfigError(
                ("save_seconds",),
                f"is {self.save_seconds}, but it must be below the time limit,"
                f" {60 * self.time_minutes} seconds",
            )
        for option in self.sbatch:
            if option in _RESERVED:
                raise ConfigError(
                    ("sbatch",), f"has {option!r}, but that follows from other settings"
                )
        return self

    def __str__(self) -> str:
        """Return the settings in words."""
        each = "1 GPU and " if self.gpus_per_task else ""
        together = f" ({self.strategy})" if self.processes > 1 else ""
        return (
            f"{self.nodes} node{'s' * (self.nodes > 1)} with {self.tasks_per_node}"
            f" process{'es' * (self.tasks_per_node > 1)}{together}, {each}{self.cpus_per_task}"
            f" CPU{'s' * (self.cpus_per_task > 1)} each, {self.memory_gb:g} GB a node,"
            f" {self.time_minutes} min, partition {self.partition or 'of the site'}"
        )


class ClusterSettings(Settings):
    """The key `slurm` of a Snakemake configuration file."""

    default: dict[str, Any] = Field(description="job settings of every model")
    by_model: dict[str, dict[str, Any]] = Field(
        default={}, description="job settings of single models, where they differ"
    )

    def job_of(self, model: str, sharded: bool = True) -> JobSettings:
        """Return the job settings of a model's runs.

        Args:
            model: the model's name.
            sharded: whether the run's optimizer can step on shards of tensors. If it cannot, each
                process holds the whole model.

        Raises:
            ConfigError: a setting is not accepted.
        """
        own = self.by_model.get(model, {})
        field = ("slurm", "by_model", model) if own else ("slurm", "default")
        job = parse(JobSettings, self.default | own, field)
        whole = {"strategy": "ddp", "tensor_parallel": 1}
        return job if sharded else job.model_copy(update=whole)

    def field_of(self, model: str, name: str) -> Keys:
        """Return the field that gives a model's job setting: the model's own or the default."""
        is_own = name in self.by_model.get(model, {})
        return ("slurm", "by_model", model, name) if is_own else ("slurm", "default", name)


def parse_cluster(values: Any, models: Iterable[str]) -> ClusterSettings:
    """Parse and check the value of the key `slurm`.

    Args:
        values: the value, as read from YAML.
        models: all names of models that `by_model` accepts.

    Raises:
        ConfigError: a setting is not accepted.
    """
    settings = parse(ClusterSettings, values, ("slurm",))
    known = sorted(models)
    for name in settings.by_model:
        if name not in known:
            raise ConfigError(
                ("slurm", "by_model"), f"has {name!r}, but it must be one of {', '.join(known)}"
            )
        settings.job_of(name)
    parse(JobSettings, settings.default, ("slurm", "default"))
    return settings


def read_cluster(path: Path, models: Iterable[str]) -> ClusterSettings:
    """Read the key `slurm` of a Snakemake configuration file, and parse it with `parse_cluster`.

    Raises:
        ConfigError: there is no such file, or a setting is not accepted.
    """
    if not path.is_file():
        raise ConfigError((), f"cluster is {str(path)!r}, but it must be the path of a YAML file")
    values = read_yaml(path)
    if "slurm" not in values:
        raise ConfigError((), f"{path.name}: slurm is missing")
    try:
        return parse_cluster(values["slurm"], models)
    except ConfigError as error:
        raise located(error, path) from None
