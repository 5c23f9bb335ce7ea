"""nanoGPT's training of GPT-2, written out plainly, to compare the speed of a run with.

Model and loop follow https://github.com/karpathy/nanoGPT (model.py and train.py): query, key and
value in one matrix, all logits at once, AdamW with weight decay for matrices only, a cosine
schedule, and the loss read every 10 steps. As there, a GPU trains in bf16 autocast with the fused
AdamW, and gets its batches without a wait.
"""

import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.corpus.batches import to_device
from experiments.models.settings import GPT2Settings
from experiments.plan.profile import TrainingSettings
from experiments.studies.machine import accelerator_or_cpu


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv_proj(self.ln_1(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.ln_2(x))


class PlainGPT2(nn.Module):
    """GPT-2, with all logits at once."""

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        self.tokens = nn.Embedding(settings.vocab_size, settings.width)
        self.positions = nn.Embedding(settings.context, settings.width)
        self.blocks = nn.ModuleList(
            _Block(settings.width, settings.heads) for _ in range(settings.layers)
        )
        self.ln = nn.LayerNorm(settings.width, bias=False)
        for param in self.parameters():
            if param.ndim >= 2:
                nn.init.normal_(param, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of `targets`, a scalar."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def train_plainly(
    settings: GPT2Settings, training: TrainingSettings, data: np.ndarray
) -> list[float]:
    """Train GPT-2 on the GPU if there is one, and return the time before each step in seconds.

    Args:
        settings: the model.
        training: steps, batch_size, context, lr, min_lr_ratio, warmup_steps, weight_decay,
            grad_clip_norm, log_every, precision (32-true or bf16-mixed) and compile.
        data: token ids, shape (tokens,).
    """
    torch.manual_seed(0)
    device = accelerator_or_cpu()
    model = PlainGPT2(settings).to(device)
    params = [*model.parameters()]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=training.lr, betas=(0.9, 0.95), fused=fused)
    autocast = torch.autocast(device.type, torch.bfloat16, training.precision == "bf16-mixed")
    compute_loss = torch.compile(model) if training.compile else model
    times = []
    for step in range(training.steps):
        times.append(time.perf_counter())
        for group in optimizer.param_groups:
            group["lr"] = _lr(step, training)
        starts = torch.randint(len(data) - training.context, (training.batch_size,))
        windows = np.stack([data[i : i + training.context + 1] for i in starts.tolist()])
        batch = to_device(torch.from_numpy(windows.astype(np.int64)), device)
        with autocast:
            loss = compute_loss(batch[:, :-1], batch[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(params, training.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % training.log_every == 0:
            loss.item()
    return times


def _lr(step: int, training: TrainingSettings) -> float:
    if step < training.warmup_steps:
        return training.lr * (step + 1) / (training.warmup_steps + 1)
    part = (step - training.warmup_steps) / (training.steps - training.warmup_steps)
    lowest = training.lr * training.min_lr_ratio
    return lowest + (1 + math.cos(math.pi * part)) / 2 * (training.lr - lowest)
