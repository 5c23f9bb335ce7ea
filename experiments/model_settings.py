"""The language models that models.yaml may describe."""

from typing import Literal

from pydantic import Field, model_validator

from experiments.settings import Settings


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
