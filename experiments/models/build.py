"""Builds a language model from its settings."""

import torch
from torch import nn

from experiments.models.causal_lm import CausalLM
from experiments.models.gpt2 import GPT2
from experiments.models.initial import materialise
from experiments.models.settings import (
    GPT2Settings,
    ModelSettings,
)


def build_model(
    settings: ModelSettings, seed: int = 0, device: torch.device | str = "cpu"
) -> nn.Module:
    """Build a model with initial weights, a function of the seed (see `materialise`).

    The model maps token ids and targets, both int64 of shape (batch, sequence), to the mean
    cross-entropy, a scalar in nats per token.
    """
    model = model_on_meta(settings)
    materialise(model, seed, device)
    return model


def model_on_meta(settings: ModelSettings) -> nn.Module:
    """Build a model on the meta device: its parameters have shapes and dtypes, but no memory."""
    with torch.device("meta"):
        return GPT2(settings) if isinstance(settings, GPT2Settings) else CausalLM(settings)
