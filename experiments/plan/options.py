"""Options of the command line: the names and values that `snakemake --config` accepts."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from experiments.settings import Settings, refused


def _profile_name(value: Any) -> Any:
    """Reject a profile name that Snakemake has parsed as a number.

    Its spelling is lost by then: `--config profile=010` arrives as the number 10.
    """
    if not isinstance(value, str):
        raise refused(value, "be a name that is no number, or the path of a YAML file")
    return value


def _boolean(value: Any) -> Any:
    """Parse "true" and "false"; Snakemake itself parses only "True" and "False"."""
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class Options(Settings):
    """The keys of Snakemake's configuration.

    https://snakemake.readthedocs.io/en/stable/snakefiles/configuration.html
    """

    profile: Annotated[str, BeforeValidator(_profile_name)] = Field(
        default="laptop",
        description="name of a profile in experiments/config/, or path of a YAML file",
    )
    runs_at_once: int | None = Field(
        default=None,
        gt=0,
        description="number of runs trained at the same time on this machine; by default one per"
        " device",
    )
    tensorboard: Annotated[bool, BeforeValidator(_boolean)] = Field(
        default=False, description="whether each run also writes TensorBoard logs"
    )
    slurm: Any = Field(
        default=None, description="resources of the SLURM jobs, usually from a configuration file"
    )
