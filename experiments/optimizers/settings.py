"""Settings of an entry of optimizers.yaml, and of the optimizer of one run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.models.settings import ModelSettings
from experiments.settings import ConfigError, Keys, Plain, Settings, refused


def _line(text: str) -> str:
    """Reject text that is empty or has line breaks, which would break the row of a table."""
    if len(text.splitlines()) != 1 or text.isspace():
        raise refused(text, "be a line of text")
    return text


class OptimizerSettings(Settings):
    """An importable optimizer class and its arguments, apart from lr and weight_decay.

    A value such as `$model.width` is replaced by that field of the trained model.
    """

    label: Annotated[str, AfterValidator(_line)] = Field(description="name in tables and figures")
    class_path: str = Field(
        alias="class",
        pattern=r"^\w+(\.\w+)+$",
        description="importable class, e.g. torch.optim.SGD",
    )
    args: dict[str, Plain[Any]] = Field(default={}, description="arguments of the class")
    sharded: bool = Field(
        default=True,
        description="whether it can step on shards of tensors; if not, strategy fsdp becomes ddp",
    )
    source: str = Field(description="where these arguments come from")


class OptimizerSpec(Settings):
    """The optimizer of one run: an importable class, and arguments that JSON can store."""

    name: str
    class_path: str = Field(alias="class")
    args: dict[str, Any]
    source_sha256: str | None = Field(
        default=None, description="of the source code, if it is the user's own"
    )


def optimizer_spec(
    name: str,
    entry: OptimizerSettings,
    model: ModelSettings,
    args: Mapping[str, Any] = MappingProxyType({}),
) -> OptimizerSpec:
    """Return the optimizer that an entry of optimizers.yaml describes for one model.

    Args:
        name: name of the entry.
        entry: its settings.
        model: the model whose fields replace values such as `$model.width`.
        args: arguments that replace those of the entry.

    Raises:
        ConfigError: an argument refers to a field that the model does not have.
    """
    return OptimizerSpec(
        name=name,
        class_path=entry.class_path,
        args={
            key: _resolve(value, model, ("optimizers", name, "args", key))
            for key, value in (entry.args | args).items()
        },
    )


def _resolve(value: Any, model: ModelSettings, field: Keys) -> Any:
    """Replace "$model.<field>" by that field of the model."""
    if not (isinstance(value, str) and value.startswith("$")):
        return value
    accepted = [f"$model.{name}" for name in (*type(model).model_fields, "head_rows")]
    if value not in accepted:
        raise ConfigError(field, f"is {value!r}, but it must be one of {', '.join(accepted)}")
    return getattr(model, value.removeprefix("$model."))
