"""What every settings class is built on, and how a mistake in one becomes one sentence."""

import hashlib
import json
import math
import re
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError


class ConfigError(ValueError):
    """One sentence that begins with a field, and names its value and what is accepted."""


class LocatedError(ConfigError):
    """A ConfigError that names its file already, or that stands in none."""


class Ambiguous(str):
    """Text without quotes that readers of YAML take for different values, such as 010 or yes."""

    def __repr__(self) -> str:
        """Return it without quotes, as it was written."""
        return str(self)


# Types by the first word of pydantic's error types, in words for readers of YAML.
_WORDS = {
    "bool": "true or false",
    "int": "a whole number in decimal digits",
    "float": "a decimal number",
    "string": "text, in quotes where YAML would read something else",
    "tuple": "a list",
    "model": "a valid dictionary",
}


class Settings(BaseModel):
    """A frozen mapping whose keys are all known.

    No value becomes one of another kind, as pydantic makes true or "1" to 1. A whole number may be
    written as 1e3.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, strict=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        accepted = {field.alias or name for name, field in cls.model_fields.items()}
        known = accepted | set(cls.model_fields)
        unknown = [key for key in values if key not in known] if isinstance(values, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; accepted: {', '.join(sorted(accepted))}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _take_whole_floats(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        integers = {
            name
            for name, field in cls.model_fields.items()
            if int in (field.annotation, *get_args(field.annotation))
        }
        return {
            key: int(value)
            if key in integers and isinstance(value, float) and value.is_integer()
            else value
            for key, value in values.items()
        }


def _once_each(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse an item that stands twice, or that tables could not tell from another one."""
    for i, item in enumerate(items):
        if any(_equal(item, other) or str(item) == str(other) for other in items[:i]):
            raise refused(item, "stand there only once")
    return items


def _equal(a: Any, b: Any) -> bool:
    """Compare two values; true and 1, which Python takes for equal, are not."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _plain(value: Any) -> Any:
    """Refuse a value that may be meant otherwise, or that does not survive JSON."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item)
    elif isinstance(value, Ambiguous):
        raise refused(value, "be a decimal number, true, false, null or text in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        raise refused(value, "be a finite number")
    return value


def refused(value: Any, accepted: str) -> PydanticCustomError:
    """Return the error of a validator: a value, or an item in it, should <accepted>."""
    return PydanticCustomError("refused", f"Input should {accepted}", {"value": value})


_T = TypeVar("_T")
_S = TypeVar("_S", bound=Settings)
Items = Annotated[tuple[_T, ...], Strict(False)]  # made from a list
Unique = Annotated[Items[_T], AfterValidator(_once_each)]  # a set that keeps its order
Plain = Annotated[_T, BeforeValidator(_plain)]  # of a field that takes values of several kinds


def parse(settings: type[_S], values: Any, field: str = "") -> _S:
    """Validate `values`, which stand in `field`, or raise a ConfigError that says so."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [field, *first["loc"]] if field else list(first["loc"])
        if location[:1] in (["datasets"], ["models"]):  # pydantic names the kind in between
            del location[2:3]
        if location[-1:] == ["[key]"]:
            del location[-1]
        raise ConfigError(_sentence(first, ".".join(map(str, location)))) from None


def _sentence(error: dict[str, Any], field: str) -> str:
    """Turn a complaint of pydantic into: field, value, what is accepted."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return f"{field} is missing"
    if kind == "value_error":
        return f"{field}: {context['error']}" if field else str(context["error"])
    if kind.startswith("union_tag"):
        field, accepted = _tag(field, context)
        return f"{field} is {context.get('tag')!r}, but it must be {accepted}"
    item = context.get("value", error["input"])
    said = f"{field} {'is' if item is error['input'] else 'has'} {_shown(item)}"
    return f"{said}, but it should {_accepted(error)}"


def _accepted(error: dict[str, Any]) -> str:
    """Say what a value should be."""
    name, _, complaint = error["type"].partition("_")
    if name in _WORDS and complaint in ("type", "parsing", "parsing_size", "from_float"):
        return f"be {_WORDS[name]}"
    if error["type"] == "too_short":
        return "have at least one item"
    return re.sub("^[A-Za-z]+ should ", "", error["msg"])


def _shown(value: Any) -> str:
    """Return a value as in a list of YAML rather than in a tuple of Python."""
    return repr(list(value) if isinstance(value, tuple) else value)


def _tag(field: str, context: dict[str, str]) -> tuple[str, str]:
    """Return the field that tells what kind of settings these are, and what it may be."""
    name = context["discriminator"].strip("'")
    tags = context.get("expected_tags")  # missing where the field is
    return f"{field}.{name}", f"one of {tags}" if tags else "given"


def digest(value: Any) -> str:
    """Return eight hexadecimal digits of the sha256 of `value`, whatever the order of its keys."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
