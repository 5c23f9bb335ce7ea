"""Read a profile and the shared registries from YAML."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from experiments.plan.profile import Profile, Registries
from experiments.settings import ConfigError, Settings, parse
from experiments.yaml_loader import located, read_yaml

CONFIG_DIR = Path(__file__).parents[1] / "config"

_S = TypeVar("_S", bound=Settings)


def load_profile(name: str) -> Profile:
    """Read a profile and add the entries of the shared registries to it.

    Args:
        name: name of a profile in `experiments/config/`, such as "laptop", or path of a YAML file.

    Raises:
        ConfigError: there is no such profile, a setting is not accepted, or the profile defines a
            name that is already in a shared registry.
    """
    path = _path(name)
    if not path.is_file():
        raise ConfigError(
            (),
            f"profile is {name!r}, but it must be one of {', '.join(profile_names())},"
            " or the path of a YAML file",
        )
    profile = _read(path, Profile)
    joined = {}
    for kind, file in zip(Registries.model_fields, _registry_files(), strict=True):
        own, shared = getattr(profile, kind), getattr(_read(file, Registries), kind)
        for twice in shared.keys() & own.keys():
            error = ConfigError(
                (kind, twice), f"already stands in {file.name}: choose another name"
            )
            raise located(error, path)
        joined[kind] = shared | own
    return profile.model_copy(update=joined)


@contextmanager
def lines_named(profile: str, *others: Path) -> Iterator[None]:
    """Add the file and line of the wrong setting to a ConfigError that the block raises.

    Args:
        profile: name or path of a profile, as for `load_profile`.
        others: further YAML files in which settings may be.

    Raises:
        ConfigError: the block raised one; its message now begins with file and line.
    """
    try:
        yield
    except ConfigError as error:
        raise located(error, _path(profile), *_registry_files(), *others) from None


def profile_names() -> list[str]:
    """Return the names of the profiles in `experiments/config/`."""
    return sorted({path.stem for path in CONFIG_DIR.glob("*.yaml")} - set(Registries.model_fields))


def _path(profile: str) -> Path:
    is_path = profile.endswith((".yaml", ".yml"))
    return Path(profile) if is_path else CONFIG_DIR / f"{profile}.yaml"


def _registry_files() -> list[Path]:
    return [CONFIG_DIR / f"{kind}.yaml" for kind in Registries.model_fields]


def _read(path: Path, settings: type[_S]) -> _S:
    values = read_yaml(path)
    try:
        return parse(settings, values)
    except ConfigError as error:
        raise located(error, path) from None
