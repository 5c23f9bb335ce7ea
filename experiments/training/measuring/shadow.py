"""The states of PowerStep and Adam on the gradients of a run, beside those of its own optimizer."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from experiments.runs.effective_steps import BETAS, EPS, LAYERS
from powerstep.quantization import dequantize_blockwise, quantize_blockwise

BLOCK_SIZE = 128
FORMATS = {"bf16": 16, "int8": 8, "int4": 4}  # bits of a number


def layer_of(name: str) -> str:
    """Return the type of layer that a parameter belongs to, by its name."""
    return next((layer for layer, part in LAYERS.items() if re.search(part, name)), "other")


def rounded(x: Tensor, bits: int) -> Tensor:
    """Return x as a state in bf16 (16 bits), int8 or int4 keeps it: fp32, the shape of x."""
    if bits == 16:
        return x.to(torch.bfloat16).float()
    codes, scales = quantize_blockwise(x, BLOCK_SIZE, bits)
    return dequantize_blockwise(codes, scales, BLOCK_SIZE, bits)


class Shadow:
    """Momentum and second moment of all parameters as flat fp32 tensors, layer type by layer type.

    Args:
        named: the parameters with their names.
        gamma: PowerStep's γ.

    Attributes:
        momentum: PowerStep's m = γ·m + g, shape (n,).
        exp_avg: Adam's first moment, shape (n,).
        exp_avg_sq: Adam's second moment, shape (n,).
        kept: m kept in each of FORMATS since `keep_rounded`; empty before.
        used: the same before the last rounding, from which PowerStep takes its update.
        layers: the range of each layer type.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], gamma: float) -> None:
        self._gamma = gamma
        by_layer: dict[str, list[nn.Parameter]] = {}
        for name, param in named:
            by_layer.setdefault(layer_of(name), []).append(param)
        self._params = [param for params in by_layer.values() for param in params]
        self.layers: dict[str, slice] = {}
        start = 0
        for layer, params in by_layer.items():
            stop = start + sum(param.numel() for param in params)
            self.layers[layer] = slice(start, stop)
            start = stop
        self._blocked = _blocked([param.numel() for param in self._params])
        device = self._params[0].device
        self.momentum, self.exp_avg, self.exp_avg_sq = torch.zeros(3, start, device=device)
        self.kept: dict[str, Tensor] = {}
        self.used: dict[str, Tensor] = {}
        self.steps = 0

    def update(self) -> None:
        """Take the parameters' gradients into all states."""
        grad = torch.cat([param.grad.flatten().float() for param in self._params])
        self.steps += 1
        self.momentum.mul_(self._gamma).add_(grad)
        self.exp_avg.lerp_(grad, 1 - BETAS[0])
        self.exp_avg_sq.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        for name, kept in self.kept.items():
            self.used[name] = kept.mul_(self._gamma).add_(grad)
            self.kept[name] = self.in_format(kept, FORMATS[name])

    def keep_rounded(self) -> None:
        """Begin to keep the momentum in each of FORMATS as well."""
        self.kept = {name: self.in_format(self.momentum, bits) for name, bits in FORMATS.items()}

    def in_format(self, flat: Tensor, bits: int) -> Tensor:
        """Return a flat momentum as it is after rounding; each parameter has blocks of its own."""
        if bits == 16:
            return rounded(flat, bits)
        return torch.cat([rounded(part, bits) for part in flat.split(self._blocked)])

    @property
    def adam_denominator(self) -> Tensor:
        """Adam's √v̂ + ε, shape (n,)."""
        return (self.exp_avg_sq / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPS)

    @property
    def adam_update(self) -> Tensor:
        """Adam's update m̂ / (√v̂ + ε), shape (n,)."""
        return self.exp_avg / (1 - BETAS[0] ** self.steps) / self.adam_denominator

    def state_dict(self) -> dict[str, object]:
        """Return the states, in a form that can be loaded with weights_only=True."""
        names = ("momentum", "exp_avg", "exp_avg_sq", "kept", "steps")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the states."""
        device = self.momentum.device
        for name in ("momentum", "exp_avg", "exp_avg_sq"):
            setattr(self, name, state[name].to(device))
        self.kept = {name: kept.to(device) for name, kept in state["kept"].items()}
        self.steps = state["steps"]


def _blocked(sizes: Iterable[int]) -> list[int]:
    """Return sizes of parts that are rounded at once without a block across two parameters."""
    parts = [0]
    for size in sizes:
        if parts[-1] % BLOCK_SIZE:
            parts.append(0)
        parts[-1] += size
    return parts
