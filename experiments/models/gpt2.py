"""GPT-2, with every matrix a matrix of its own."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.loss import head_loss
from experiments.models.settings import GPT2Settings


class GPT2(nn.Module):
    """GPT-2 as nanoGPT trains it: no biases, tied embeddings, no dropout (arXiv:2605.10335, 5.1).

    Query, key and value are matrices of their own, (out, in) like every nn.Linear, because matrix
    optimizers treat each of them as one, and Adam-mini finds each kind of block by such names.
    """

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(settings.vocab_size, settings.width)
        self.position_embedding = nn.Embedding(settings.context, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.ln_f = nn.LayerNorm(settings.width, bias=False)
        self.layers = settings.layers

    def initial_std(self, name: str) -> float | None:
        """Return the standard deviation of a parameter's initial values; None if they are ones."""
        if ".ln_" in f".{name}":
            return None
        # GPT-2 shrinks what is added to the residual stream, which grows with depth.
        is_added = name.endswith("o_proj.weight")
        return 0.02 / math.sqrt(2 * self.layers) if is_added else 0.02

    def tie_weights(self) -> None:
        """Nothing: the output layer uses the embedding itself."""

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of `targets`, a scalar."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        return head_loss(self.ln_f(x), self.token_embedding.weight, targets)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(settings.width, bias=False)
        self.attention = Attention(settings)
        self.ln_2 = nn.LayerNorm(settings.width, bias=False)
        self.mlp = MLP(settings)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, sequence, width) to the same shape."""
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.q_proj = nn.Linear(settings.width, settings.width, bias=False)
        self.k_proj = nn.Linear(settings.width, settings.width, bias=False)
        self.v_proj = nn.Linear(settings.width, settings.width, bias=False)
        self.o_proj = nn.Linear(settings.width, settings.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, sequence, width) to the same shape."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear maps with a GELU between them, four times as wide inside."""

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.i_proj = nn.Linear(settings.width, 4 * settings.width, bias=False)
        self.o_proj = nn.Linear(4 * settings.width, settings.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, sequence, width) to the same shape."""
        return self.o_proj(F.gelu(self.i_proj(x)))
