"""The entries of optimizers.yaml, and the optimizer of one run."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from experiments.settings import Plain, Settings, refused


def _line(text: str) -> str:
    """Refuse text that is empty, or that would break the row of a table."""
    if len(text.splitlines()) != 1 or text.isspace():
        raise refused(text, "be a line of text")
    return text


class OptimizerSettings(Settings):
    """An importable optimizer class and the arguments it is made with.

    lr and weight_decay come from the training settings. A value `$model.width` stands for that
    field of the model that is trained.
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
        description="whether it can step on parts of tensors; with strategy fsdp others get ddp",
    )
    source: str = Field(description="where these arguments come from")


class OptimizerSpec(Settings):
    """An importable optimizer class with its arguments, all of them plain values."""

    name: str
    class_path: str = Field(alias="class")
    args: dict[str, Any]
    source_sha256: str | None = Field(default=None, description="of a class of the user's")
