"""Base class of all settings, and the error for a value that is not accepted."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

Keys = tuple[str, ...]  # keys and list indices from the top of a YAML file to a setting


class ConfigError(ValueError):
    """A setting that is not accepted, as one sentence: field, value, accepted values.

    Args:
        field: the setting, such as ("training", "lr"); () for an error that is not about one.
        problem: the rest of the sentence, such as "is -1, but it should be greater than 0".
        within: the settings that `field` is part of, where the sentence names both.

    Attributes:
        field: all keys, those of `within` first. They give the line of a file.
        problem: as given.
    """

    def __init__(self, field: Keys, problem: str, *, within: Keys = ()) -> None:
        sentence = (
            f"{dotted(field)}{'' if problem.startswith((':', ',')) else ' '}{problem}".strip()
        )
        super().__init__(f"{dotted(within)}: {sentence}" if within else sentence)
        self.field = (*within, *field)
        self.problem = problem


def dotted(field: Keys) -> str:
    """Return a field as text, such as "training.lr"."""
    return ".".join(field)


class Ambiguous(str):
    """Unquoted YAML text that parsers read as different values, such as 010 or yes."""

    def __repr__(self) -> str:
        """Return the text as in the file, without quotes."""
        return str(self)


# Names of types for users, by the first word of pydantic's error type
# (https://docs.pydantic.dev/latest/errors/validation_errors/).
_WORDS = {
    "bool": "true or false",
    "int": "a whole number in decimal digits",
    "float": "a decimal number",
    "string": "text, in quotes where YAML would read something else",
    "tuple": "a list",
    "model": "a valid dictionary",
}


class Settings(BaseModel):
    """Base class of settings: frozen, without unknown keys.

    Values are not converted between types; pydantic by default reads true or "1" as 1. A whole
    number may be written as 1e3.
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
            known_keys = ", ".join(sorted(accepted))
            raise ValueError(f"unknown key {unknown[0]!r}; accepted: {known_keys}")
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
    """Reject an item that appears twice, or whose text equals that of another item."""
    for i, item in enumerate(items):
        if any(_equal(item, other) or str(item) == str(other) for other in items[:i]):
            raise refused(item, "stand there only once")
    return items


def _equal(a: Any, b: Any) -> bool:
    """Compare two values; true and 1, equal in Python, are different here."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _plain(value: Any) -> Any:
    """Reject a value that is ambiguous in YAML or that JSON cannot store."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item)
    elif isinstance(value, Ambiguous):
        raise refused(value, "be a decimal number, true, false, null or text in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        raise refused(value, "be a finite number")
    return value


def refused(value: Any, accepted: str) -> PydanticCustomError:
    """Return a validator's error, "<value> should <accepted>", for a value or an item in it."""
    return PydanticCustomError("refused", f"Input should {accepted}", {"value": value})


def added(default: Any, **field: Any) -> Any:
    """Return a field that dumps leave out while it has its default.

    A run's name hashes the dump of its settings. A new setting that is declared so leaves the names
    of the runs that do not use it as they were.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **field)


_T = TypeVar("_T")
_S = TypeVar("_S", bound=Settings)
Items = Annotated[tuple[_T, ...], Strict(False)]  # a list in YAML, a tuple in Python
Unique = Annotated[Items[_T], AfterValidator(_once_each)]  # Items without duplicates
Plain = Annotated[_T, BeforeValidator(_plain)]  # for a field that accepts several types


def parse(settings: type[_S], values: Any, field: Keys = ()) -> _S:
    """Validate `values`, the settings at `field`.

    Raises:
        ConfigError: a value is not accepted; its field begins with `field`.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _config_error(first, (*field, *_keys(first, values))) from None


def _keys(error: dict[str, Any], values: Any) -> Iterator[str]:
    """Yield the keys and indices of a pydantic error's location.

    Pydantic adds the tag of a union, and "[key]" where a key is refused:
    https://docs.pydantic.dev/latest/errors/errors/
    """
    is_missing = error["type"] == "missing"
    for depth, part in enumerate(error["loc"], start=1):
        is_key = isinstance(values, dict) and part in values
        is_index = isinstance(values, (list, tuple)) and isinstance(part, int)
        if is_key or is_index:
            values = values[part]
            yield str(part)
        elif is_missing and depth == len(error["loc"]):
            yield str(part)


def _config_error(error: dict[str, Any], field: Keys) -> ConfigError:
    """Return the ConfigError for an error of pydantic."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return ConfigError(field, "is missing")
    if kind == "value_error":
        inner = context["error"]
        known = isinstance(inner, ConfigError)
        return ConfigError(
            inner.field if known else (), inner.problem if known else str(inner), within=field
        )
    if kind.startswith("union_tag"):
        name, accepted = _tag(context)
        tag = context.get("tag")
        return ConfigError((*field, name), f"is {tag!r}, but it must be {accepted}")
    item = context.get("value", error["input"])
    said = f"{'is' if item is error['input'] else 'has'} {_shown(item)}"
    return ConfigError(field, f"{said}, but it should {_accepted(error)}")


def _accepted(error: dict[str, Any]) -> str:
    """Return the accepted values as the end of a sentence: "be …" or "have …"."""
    name, _, complaint = error["type"].partition("_")
    if name in _WORDS and complaint in ("type", "parsing", "parsing_size", "from_float"):
        return f"be {_WORDS[name]}"
    if error["type"] == "too_short":
        return "have at least one item"
    return re.sub("^[A-Za-z]+ should ", "", error["msg"])


def _shown(value: Any) -> str:
    """Return a value as text, tuples as lists."""
    return repr(list(value) if isinstance(value, tuple) else value)


def _tag(context: dict[str, str]) -> tuple[str, str]:
    """Return the key that tells the kind of settings, and its accepted values."""
    tags = context.get("expected_tags")  # missing where the key is missing
    return context["discriminator"].strip("'"), f"one of {tags}" if tags else "given"


def digest(value: Any) -> str:
    """Return eight hexadecimal digits of the sha256 of `value`, whatever the order of its keys."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
