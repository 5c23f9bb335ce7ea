"""What may stand in the YAML files of `experiments/config/`, checked key by key.

A profile (laptop.yaml, smoke.yaml, or a file of the user's own) names the experiments to run; the
three registries beside it (models.yaml, optimizers.yaml, datasets.yaml) say what the names mean.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.yaml_loader import StrictLoader

CONFIG_DIR = Path(__file__).parent / "config"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ConfigError(ValueError):
    """One sentence that names the field, its value and what is accepted."""


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


class ModelSettings(Settings):
    """A decoder-only language model."""

    family: Literal["gpt2"] = Field(description="the architecture")
    layers: int = Field(gt=0, description="number of transformer blocks")
    width: int = Field(gt=0, description="size of the residual stream")
    heads: int = Field(gt=0, description="attention heads; divides width")
    context: int = Field(gt=0, description="longest sequence, in tokens")
    vocab_size: int = Field(gt=0, description="rows of the embedding")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelSettings":
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, but it must divide width, {self.width}")
        return self


class OptimizerSettings(Settings):
    """An importable optimizer class and the arguments it is made with.

    lr and weight_decay come from the training settings. A value `$model.width` stands for that
    field of the model that is trained.
    """

    label: str = Field(description="name in tables and figures")
    class_path: str = Field(
        alias="class",
        pattern=r"^\w+(\.\w+)+$",
        description="importable class, e.g. torch.optim.SGD",
    )
    args: dict[str, Any] = Field(default={}, description="arguments of the class")
    source: str = Field(description="where these arguments come from")


class _Corpus(Settings):
    vocab_size: int = Field(
        default=4096, gt=256, le=65536, description="size of the byte-level BPE that is trained"
    )
    validation_fraction: float = Field(
        default=0.05, gt=0, lt=1, description="share of the tokens, at the end, kept for validation"
    )


class DocstringCorpus(_Corpus):
    """The docstrings of installed Python packages: real text that needs no network."""

    kind: Literal["docstrings"]
    packages: tuple[str, ...] = Field(min_length=1, description="importable package names")
    sha256: str | None = Field(
        default=None, description="of the text it should be; the report tells where it is not"
    )


class TextCorpus(_Corpus):
    """Text files of the user's, in UTF-8."""

    kind: Literal["text"]
    files: tuple[str, ...] = Field(min_length=1, description="paths or glob patterns")


class HuggingFaceCorpus(_Corpus):
    """A dataset of the Hugging Face hub, or of a local folder, through `datasets`."""

    kind: Literal["huggingface"]
    path: str = Field(description="name on the hub, or a local folder")
    name: str | None = Field(default=None, description="configuration of the dataset")
    revision: str | None = Field(default=None, description="commit or tag on the hub")
    split: str = Field(default="train", description="split to read")
    text_field: str = Field(default="text", description="column that holds the text")
    streaming: bool = Field(default=False, description="read without downloading it whole first")
    max_documents: int | None = Field(default=None, gt=0, description="read no more than this")


CorpusSettings = Annotated[
    DocstringCorpus | TextCorpus | HuggingFaceCorpus, Field(discriminator="kind")
]


class TrainingSettings(Settings):
    """How one model is trained; the same for every optimizer."""

    steps: int = Field(gt=0, description="optimizer steps")
    batch_size: int = Field(gt=0, description="sequences a step")
    micro_batch_size: int | None = Field(
        default=None, gt=0, description="sequences a forward pass; divides batch_size, its default"
    )
    context: int = Field(gt=0, description="tokens a sequence")
    lr: float = Field(gt=0, description="highest learning rate of the schedule")
    min_lr_ratio: float = Field(
        default=0.1, ge=0, le=1, description="last learning rate, as a part of lr"
    )
    warmup_steps: int = Field(ge=0, description="steps of the linear warm-up from zero")
    weight_decay: float = Field(
        default=0.1, ge=0, description="decoupled, on tensors of two or more dimensions"
    )
    grad_clip_norm: float = Field(default=1.0, gt=0, description="largest global gradient norm")
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = Field(
        default="32-true", description="Lightning's precision setting"
    )
    val_every: int = Field(gt=0, description="steps between validations; divides steps")
    val_sequences: int = Field(gt=0, description="fixed validation windows")
    log_every: int = Field(default=1, gt=0, description="steps between rows of the metrics")

    @model_validator(mode="after")
    def _fields_agree(self) -> "TrainingSettings":
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but it must be below steps, {self.steps}"
            )
        if self.steps % self.val_every:
            raise ValueError(
                f"val_every is {self.val_every}, but it must divide steps, {self.steps}"
            )
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size is {self.micro_batch_size}, but it must divide batch_size,"
                f" {self.batch_size}"
            )
        return self


class Experiment(Settings):
    """Every combination of some models, optimizers and seeds."""

    models: tuple[str, ...] = Field(min_length=1, description="names in models.yaml")
    optimizers: tuple[str, ...] = Field(min_length=1, description="names in optimizers.yaml")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="of the initial weights and the order of the data"
    )
    dataset: str | None = Field(default=None, description="instead of the profile's")
    training: dict[str, Any] = Field(
        default={}, description="training settings that differ from the profile's"
    )


class Registries(Settings):
    """What names mean. Each shared registry is a file of its own beside the profiles."""

    models: dict[Name, ModelSettings] = {}
    optimizers: dict[Name, OptimizerSettings] = {}
    datasets: dict[Name, CorpusSettings] = {}


class Profile(Registries):
    """One file of experiments. Its own registries add to the shared ones."""

    dataset: str = Field(description="name in datasets.yaml")
    training: dict[str, Any] = Field(description="training settings of every experiment")
    experiments: dict[Name, Experiment] = Field(min_length=1)


_S = TypeVar("_S", bound=Settings)


def parse(settings: type[_S], values: Any, where: str, field: str = "") -> _S:
    """Validate `values`, which stand in `field` of `where`, or raise a ConfigError that says so."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [field, *first["loc"]] if field else list(first["loc"])
        if location[:1] == ["datasets"]:  # pydantic names the kind of dataset in between
            del location[2:3]
        raise ConfigError(f"{where}: {_sentence(first, '.'.join(map(str, location)))}") from None


def load_profile(name: str) -> Profile:
    """Read a profile with the shared registries joined in.

    Args:
        name: a profile of `experiments/config/`, such as "laptop", or the path of a YAML file.

    Raises:
        ConfigError: there is no such profile, or something in it is not accepted.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIG_DIR / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"profile is {name!r}, but it must be one of {', '.join(profile_names())},"
            " or the path of a YAML file"
        )
    profile = _read(path, Profile)
    joined = {}
    for kind in Registries.model_fields:
        own, shared = (
            getattr(profile, kind),
            getattr(_read(CONFIG_DIR / f"{kind}.yaml", Registries), kind),
        )
        for twice in shared.keys() & own.keys():
            raise ConfigError(
                f"{path.name}: {kind}.{twice} already stands in {kind}.yaml: choose another name"
            )
        joined[kind] = shared | own
    return profile.model_copy(update=joined)


def profile_names() -> list[str]:
    """Names of the profiles that come with the project."""
    return sorted({path.stem for path in CONFIG_DIR.glob("*.yaml")} - set(Registries.model_fields))


def _read(path: Path, settings: type[_S]) -> _S:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path.name} is not valid YAML: {problem}") from None
    return parse(settings, values, path.name)


def _sentence(error: dict[str, Any], field: str) -> str:
    """Turn a complaint of pydantic into: field, value, what is accepted."""
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}" if field else str(error["ctx"]["error"])
    if error["type"].startswith("union_tag"):
        kinds = error["ctx"].get("expected_tags", "'docstrings', 'text', 'huggingface'")
        return f"{field}.kind is {error['input'].get('kind')!r}, but it must be one of {kinds}"
    if error["type"] == "too_short":
        return f"{field} is {error['input']!r}, but it must have at least one item"
    message = error["msg"].replace("Input should", "it should")
    return f"{field} is {error['input']!r}, but {message}"
