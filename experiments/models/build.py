"""Builds a language model from its settings."""

import torch
from torch import nn

from experiments.models.causal_lm import CausalLM
from experiments.models.gpt2 import GPT2
from experiments.models.settings import (
    GPT2Settings,
    ModelSettings,
)


def build_model(settings: ModelSettings) -> nn.Module:
    """Build a model with initial weights from torch's global random generator.

    The model maps token ids and targets, both int64 of shape (batch, sequence), to the mean
    cross-entropy, a scalar in nats per token.
    """
    return GPT2(settings) if isinstance(settings, GPT2Settings) else CausalLM(settings)


def model_on_meta(settings: ModelSettings) -> nn.Module:
    """Build a model on the meta device: its parameters have shapes and dtypes, but no memory."""
    with torch.device("meta"):
        return build_model(settings)
