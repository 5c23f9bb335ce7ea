"""What every settings class is built on, and how a mistake in one becomes one sentence."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class ConfigError(ValueError):
    """One sentence that begins with a field, and names its value and what is accepted."""


class Settings(BaseModel):
    """A frozen mapping whose keys are all known."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
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


_S = TypeVar("_S", bound=Settings)


def parse(settings: type[_S], values: Any, field: str = "") -> _S:
    """Validate `values`, which stand in `field`, or raise a ConfigError that says so."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [field, *first["loc"]] if field else list(first["loc"])
        if location[:1] in (["datasets"], ["models"]):  # pydantic names the kind in between
            del location[2:3]
        raise ConfigError(_sentence(first, ".".join(map(str, location)))) from None


def _sentence(error: dict[str, Any], field: str) -> str:
    """Turn a complaint of pydantic into: field, value, what is accepted."""
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}" if field else str(error["ctx"]["error"])
    if error["type"].startswith("union_tag"):
        field, accepted = _kind(field, error["ctx"])
        return f"{field} is {error['ctx'].get('tag')!r}, but it must be {accepted}"
    if error["type"] == "too_short":
        return f"{field} is {error['input']!r}, but it must have at least one item"
    message = error["msg"].replace("Input should", "it should")
    return f"{field} is {error['input']!r}, but {message}"


def _kind(field: str, context: dict[str, str]) -> tuple[str, str]:
    """Return the field that tells what kind of settings these are, and what it may be."""
    name = context["discriminator"].strip("'")
    tags = context.get("expected_tags")  # missing where the field is
    return f"{field}.{name}", f"one of {tags}" if tags else "given"
