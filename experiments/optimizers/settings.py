"""Settings of an entry of optimizers.yaml, and of the optimizer of one run."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from experiments.models.settings import ModelSettings
from experiments.settings import ConfigError, Keys, Plain, Settings, Unique, added, refused

Role = Literal["hidden_matrices", "embeddings", "output", "norms", "biases"]
_CLASS_PATH = r"^\w+(\.\w+)+$"


def _line(text: str) -> str:
    """Reject text that is empty or has line breaks, which would break the row of a table."""
    if len(text.splitlines()) != 1 or text.isspace():
        raise refused(text, "be a line of text")
    return text


def _pattern(text: str) -> str:
    """Reject text that is no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise refused(text, f"be a regular expression ({error})") from None
    return text


class GroupSettings(Settings):
    """The parameters of some roles or names, and their settings."""

    roles: Unique[Role] = Field(default=(), description="roles of the parameters")
    names: Annotated[str, AfterValidator(_pattern)] | None = Field(
        default=None, description="regular expression; parameters belong whose name contains it"
    )
    class_path: str | None = Field(
        default=None,
        alias="class",
        pattern=_CLASS_PATH,
        description="importable class of this group alone; by default the class of the entry",
    )
    args: dict[str, Plain[Any]] = Field(
        default={}, description="arguments of the class, in addition to those of the entry"
    )
    lr_factor: float = Field(default=1.0, gt=0, description="factor of training.lr")
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="weight decay of the whole group; by default training.weight_decay for"
        " tensors of two or more dimensions",
    )

    @model_validator(mode="after")
    def _selects_in_one_way(self) -> "GroupSettings":
        if bool(self.roles) == (self.names is not None):
            raise ValueError("should have either roles or names")
        return self


class BestRate(Settings):
    """The best peak learning rate that was measured, and how it changes with the model's width."""

    lr: float = Field(gt=0, description="best peak learning rate of a GPT-2 of this width")
    width: int = Field(gt=0, description="width of that model")
    exponent: float = Field(
        default=0.0, description="the best rate grows with the width to this power"
    )

    def at(self, width: int) -> float:
        """Return the best learning rate that is expected at a width."""
        return self.lr * (width / self.width) ** self.exponent


class OptimizerSettings(Settings):
    """An importable optimizer class and its arguments, apart from lr and weight_decay.

    A value such as `$model.width` is replaced by that field of the trained model, and
    `$training.steps` by the number of steps.
    """

    label: Annotated[str, AfterValidator(_line)] = Field(description="name in tables and figures")
    class_path: str | None = Field(
        default=None,
        alias="class",
        pattern=_CLASS_PATH,
        description="importable class, e.g. torch.optim.SGD",
    )
    args: dict[str, Plain[Any]] = Field(default={}, description="arguments of the class")
    groups: Annotated[tuple[GroupSettings, ...], Field(strict=False)] = Field(
        default=(),
        description="groups of parameters with their own settings; by default all parameters are"
        " treated alike",
    )
    closure: bool = Field(
        default=False,
        description="whether a step needs a closure that computes loss and gradients again",
    )
    sharded: bool = Field(
        default=True,
        description="whether it can step on shards of tensors; if not, strategy fsdp becomes ddp",
    )
    best_lr: BestRate | None = Field(
        default=None,
        description="best peak learning rate that we measured; by default training.lr is taken",
    )
    extra: Literal["field", "field-gpu"] | None = Field(
        default=None, description="the extra of pyproject.toml that installs its library"
    )
    known_no: dict[str, str] = Field(
        default={}, description="checks of `make check` that it is known to fail, with the reasons"
    )
    source: str = Field(description="where these arguments come from")

    @model_validator(mode="after")
    def _every_parameter_has_a_class(self) -> "OptimizerSettings":
        own = [group.class_path for group in self.groups]
        if not self.class_path and not (own and all(own)):
            raise ConfigError(("class",), "is missing")
        if self.class_path and own and all(own):
            raise ConfigError(
                ("class",),
                f"is {self.class_path!r}, but every group has its own class: leave it out",
            )
        if self.args and not self.class_path:
            raise ConfigError(("args",), "need a class of the entry; each group has its own args")
        if self.closure and any(own):
            raise ConfigError(
                ("closure",), "is true, but it must be false where groups have their own class"
            )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """The dotted paths of all its classes, that of the entry first."""
        return _classes(self)


class GroupSpec(Settings):
    """A group of the optimizer of one run, with the fields of GroupSettings."""

    roles: tuple[Role, ...] = Field(default=(), strict=False)
    names: str | None = None
    class_path: str | None = Field(default=None, alias="class")
    args: dict[str, Any] = Field(default={})
    lr_factor: float = 1.0
    weight_decay: float | None = None
    source_sha256: str | None = None


class OptimizerSpec(Settings):
    """The optimizer of one run: importable classes, and arguments that JSON can store."""

    name: str
    class_path: str | None = Field(default=None, alias="class")
    args: dict[str, Any]
    groups: tuple[GroupSpec, ...] = added((), strict=False)
    closure: bool = added(False)
    source_sha256: str | None = Field(
        default=None, description="of the source code, if it is the user's own"
    )

    @property
    def classes(self) -> tuple[str, ...]:
        """The dotted paths of all its classes, that of the entry first."""
        return _classes(self)


def how_to_install(extra: str) -> str:
    """Return how to install an extra, as a clause."""
    clause = f"pip install '.[{extra}]' installs it"
    return clause + (", and so does make EXTRA=field" if extra == "field" else "")


def _classes(owner: OptimizerSettings | OptimizerSpec) -> tuple[str, ...]:
    paths = [owner.class_path, *(group.class_path for group in owner.groups)]
    return tuple(dict.fromkeys(path for path in paths if path))


def optimizer_spec(
    name: str,
    entry: OptimizerSettings,
    model: ModelSettings,
    args: Mapping[str, Any] = MappingProxyType({}),
    *,
    steps: int | None = None,
    source_of: Callable[[str], str | None] = lambda _: None,
) -> OptimizerSpec:
    """Return the optimizer that an entry of optimizers.yaml describes for one model.

    Args:
        name: name of the entry.
        entry: its settings.
        model: the model whose fields replace values such as `$model.width`.
        args: arguments that replace those of the entry.
        steps: the number of training steps, which replaces `$training.steps`.
        source_of: returns the sha256 of a class's source code if it is the user's own.

    Raises:
        ConfigError: an argument refers to a field that the model does not have, or `args` are given
            but the entry has no class of its own.
    """
    where = ("optimizers", name)
    known = {f"$model.{field}": field for field in (*type(model).model_fields, "head_rows")}

    def resolved(values: Mapping[str, Any], within: Keys) -> dict[str, Any]:
        return {key: resolve(value, (*within, key)) for key, value in values.items()}

    def resolve(value: Any, field: Keys) -> Any:
        if not (isinstance(value, str) and value.startswith("$")):
            return value
        if value == "$training.steps" and steps is not None:
            return steps
        if value not in known:
            accepted = ", ".join([*known, "$training.steps"])
            raise ConfigError(field, f"is {value!r}, but it must be one of {accepted}")
        return getattr(model, known[value])

    if args and not entry.class_path:
        raise ConfigError(where, "has no args of its own that an experiment could vary")
    return OptimizerSpec(
        name=name,
        class_path=entry.class_path,
        args=resolved(entry.args | args, (*where, "args")),
        groups=tuple(
            GroupSpec(
                **dict(group.model_copy(update={"args": resolved(group.args, field)})),
                source_sha256=source_of(group.class_path) if group.class_path else None,
            )
            for field, group in (
                ((*where, "groups", str(index), "args"), group)
                for index, group in enumerate(entry.groups)
            )
        ),
        closure=entry.closure,
        source_sha256=source_of(entry.class_path) if entry.class_path else None,
    )
