"""What `snakemake --config name=value` accepts."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from experiments.settings import Settings, refused


def _name(value: Any) -> Any:
    """Refuse a name that Snakemake took for a number, which has lost its form."""
    if not isinstance(value, str):
        raise refused(value, "be a name that is no number, or the path of a YAML file")
    return value


def _truth(value: Any) -> Any:
    """Return the boolean that is meant: Snakemake takes only True and False for one."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class Options(Settings):
    """The keys of Snakemake's configuration."""

    profile: Annotated[str, BeforeValidator(_name)] = Field(
        default="laptop", description="name in experiments/config/, or path of a YAML file"
    )
    runs_at_once: int | None = Field(
        default=None,
        gt=0,
        description="runs trained here side by side; none for one on each device",
    )
    tensorboard: Annotated[bool, BeforeValidator(_truth)] = Field(
        default=False, description="whether each run writes TensorBoard logs too"
    )
    slurm: Any = Field(default=None, description="of a file: what jobs ask for, if there are any")
