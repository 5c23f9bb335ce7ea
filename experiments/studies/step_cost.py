"""The time and memory of a step of each optimizer.

Optimizers are measured in groups. In each round every optimizer of a group takes one step, so that
other load on the machine slows all of them down. torch's fused AdamW is in every group; ratios are
relative to its step in the same round.
"""

import ctypes
import gc
import statistics
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pandas as pd
import torch
from torch import nn

from experiments.memory import peak_resident_bytes, reset_peak, resident_bytes
from experiments.optimizers.import_class import import_object
from experiments.optimizers.state_bytes import state_bytes
from experiments.plan.reading import load_profile
from experiments.studies.machine import accelerator_or_cpu, call_seconds, copy_speed, seconds

RELATIVE_TO = "AdamW, fused"  # the reference of all ratios
GROUP_SIZE = 4  # optimizers in memory at once, besides the reference
WARM_UP = 2  # number of untimed steps per optimizer
CALLS = 5  # steps for call_ms
# Timed steps in a row. On a GPU they follow each other without a pause, as the CPU prepares one
# while the GPU is still busy with another.
IN_A_ROW = {"cpu": 1, "cuda": 10}
LR = 1e-6  # learning rate; so small that all optimizers can step on the same parameters

Params = list[tuple[str, nn.Parameter]]  # parameters with their names
Shapes = dict[str, tuple[int, ...]]  # shapes of parameters, by name


class Formula:
    """PowerStep's formula (γ = 0.9, β = 0.1), one torch operation after the other."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.state = {param: {"momentum": torch.zeros_like(param)} for param in params}

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        for param, state in self.state.items():
            momentum = state["momentum"]
            momentum.mul_(0.9).add_(param.grad)
            update = momentum.sign() * momentum.abs().pow(0.1)
            param.mul_(1 - LR * 0.1).add_(update, alpha=-LR)


def _factory(path: str, **arguments: Any) -> Callable[[Params], Any]:
    """Return a function that builds an optimizer from the path of its class; weight decay 0.1.

    SGD alone has no weight decay.
    """

    def make(params: Params) -> Any:
        optimizer_class = import_object(path)
        decay = {} if path == "torch.optim.SGD" else {"weight_decay": 0.1}
        return optimizer_class([p for _, p in params], lr=LR, **decay | arguments)

    return make


def _adafactor(params: Params) -> Any:
    """Build Adafactor with its arguments in optimizers.yaml."""
    entry = load_profile("laptop").optimizers["adafactor"]
    return _factory(entry.class_path, **entry.args)(params)


def _adam_mini(params: Params) -> Any:
    """Build Adam-mini; it needs queries, keys and values as separate parameters."""
    from adam_mini import Adam_mini

    apart: Params = []
    for name, param in params:
        parts = param.detach().chunk(3) if "qkv_proj" in name else [param.detach()]
        grads = param.grad.chunk(3) if "qkv_proj" in name else [param.grad]
        for part, grad, letter in zip(parts, grads, "qkv", strict=False):
            view = nn.Parameter(part)
            view.grad = grad
            apart.append((name.replace("qkv_proj", f"{letter}_proj"), view))
    width = params[0][1].shape[1]
    heads = width // 64
    return Adam_mini(apart, lr=LR, weight_decay=0.1, dim=width, n_heads=heads, verbose=False)


OPTIMIZERS: dict[str, Callable[[Params], Any]] = {
    RELATIVE_TO: _factory("torch.optim.AdamW", fused=True),
    "AdamW, foreach": _factory("torch.optim.AdamW", foreach=True),
    "AdamW, for-loop": _factory("torch.optim.AdamW", foreach=False),
    "SGD with momentum, fused": _factory("torch.optim.SGD", momentum=0.9, fused=True),
    "PowerStep fp32": _factory("powerstep.PowerStep"),
    "PowerStep bf16": _factory("powerstep.PowerStep", state_precision="bf16"),
    "PowerStep int8": _factory("powerstep.PowerStep", state_precision="int8"),
    "PowerStep int4": _factory("powerstep.PowerStep", state_precision="int4"),
    "PowerStep fp32, eager": _factory("powerstep.PowerStep", compiled=False),
    "PowerStep fp32, foreach": _factory("powerstep.PowerStep", foreach=True),
    "PowerStep int8, eager": _factory(
        "powerstep.PowerStep", state_precision="int8", compiled=False
    ),
    "PowerStep's formula, eager": lambda params: Formula([p for _, p in params]),
    "SignSGD": _factory("powerstep.baselines.SignSGD"),
    "pbSGDM": _factory("powerstep.baselines.PbSGDM"),
    "AdamS": _factory("powerstep.baselines.AdamS"),
    "Stacey(p,2)": _factory("powerstep.baselines.Stacey"),
    "AdamW int8, naive": _factory("powerstep.baselines.NaiveAdamWInt8"),
    "Adafactor": _adafactor,
    "Lion": _factory("lion_pytorch.Lion"),
    "Adam-mini": _adam_mini,
    "AdamW 8-bit, torchao": _factory("torchao.optim.AdamW8bit"),
    "AdamW 8-bit, bitsandbytes": _factory("bitsandbytes.optim.AdamW8bit"),
    "AdamW 8-bit, FlashOptim": _factory("flashoptim.FlashAdamW", master_weight_bits=None),
}


def gpt2_shapes() -> Shapes:
    """Return the shapes of GPT-2 124M without biases: 75 tensors with 124.4 million elements."""
    layer = {
        "ln_1": (768,),
        "attn.qkv_proj": (3 * 768, 768),
        "attn.o_proj": (768, 768),
        "ln_2": (768,),
        "mlp.i_proj": (4 * 768, 768),
        "mlp.o_proj": (768, 4 * 768),
    }
    shapes: Shapes = {"embed.weight": (50304, 768), "position": (1024, 768)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(12) for name, shape in layer.items()}
    return shapes | {"ln_f": (768,)}


def make_params(shapes: Shapes, device: torch.device) -> Params:
    """Return parameters of the given shapes with gradients, both random, in fp32."""
    generator = torch.Generator().manual_seed(0)
    params: Params = []
    for name, shape in shapes.items():
        param = nn.Parameter(0.02 * torch.randn(shape, generator=generator).to(device))
        param.grad = 1e-3 * torch.randn(shape, generator=generator).to(device)
        params.append((name, param))
    return params


def time_rounds(optimizers: dict[str, Any], rounds: int, device: torch.device) -> pd.DataFrame:
    """Time steps of optimizers in rounds; each takes IN_A_ROW a round, in a rotating order.

    Returns:
        Seconds of a step, one row for each round and one column for each optimizer.
    """
    names, steps = [*optimizers], IN_A_ROW[device.type]
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(seconds(optimizers[name].step, device, steps))
    return pd.DataFrame(times)


def measure(shapes: Shapes, names: list[str], rounds: int) -> pd.DataFrame:
    """Measure the time and memory of a step of each optimizer, on the GPU if there is one.

    Args:
        shapes: shapes of the parameters, by name.
        names: keys of OPTIMIZERS, including RELATIVE_TO.
        rounds: number of timed steps per optimizer, on a GPU ten at a time.

    Returns:
        One row per optimizer: step_ms, the median time of a step; ratio, ratio_low and ratio_high,
        the median and quartiles of its ratio to the reference; call_ms, on a GPU only, the median
        time until the call of a step returns; first_step_s, the time of the first step, which may
        compile; state_bytes_per_param; peak_extra_mb, the extra memory at the peak
        of a step in MB (1e6 bytes), and peak_extra_in_largest, the same in units of the largest
        parameter's size; copy_speed_share, the speed at which a step moves the bytes that it must
        (reading parameter, gradient and state, and writing parameter and state), relative to the
        speed of copying a tensor. NaN if the optimizer is not installed, or not for this device.
    """
    device = accelerator_or_cpu()
    params, fastest = make_params(shapes, device), copy_speed(device)
    others = [name for name in names if name != RELATIVE_TO]
    rows = {}
    for start in range(0, max(1, len(others)), GROUP_SIZE):
        group = _measure_group(params, [RELATIVE_TO, *others[start : start + GROUP_SIZE]], rounds)
        rows = group | rows  # keep the first row of the reference
    table = pd.DataFrame([{"optimizer": name} | rows[name] for name in names])
    moved = 3 * 4 + 2 * table["state_bytes_per_param"]  # bytes per parameter
    count = sum(param.numel() for _, param in params)
    return table.assign(copy_speed_share=moved * count / (table["step_ms"] / 1e3) / fastest)


def _measure_group(params: Params, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    largest = max(param.numel() * param.element_size() for _, param in params)
    count = sum(param.numel() for _, param in params)
    device = params[0][1].device
    optimizers, rows = {}, {}
    for name in names:
        try:
            optimizer = OPTIMIZERS[name](params)
        except (ImportError, NotImplementedError):  # the latter from FlashOptim on a CPU
            rows[name] = {}
            continue
        first, *_ = [seconds(optimizer.step, device) for _ in range(WARM_UP)]
        extra = _peak_extra_bytes(optimizer.step, device)
        call_ms = float("nan")
        if device.type == "cuda":
            calls = [call_seconds(optimizer.step, device) for _ in range(CALLS)]
            call_ms = 1e3 * statistics.median(calls)
        optimizers[name] = optimizer
        rows[name] = {
            "call_ms": call_ms,
            "first_step_s": first,
            "state_bytes_per_param": state_bytes(optimizer) / count,
            "peak_extra_mb": extra / 1e6,
            "peak_extra_in_largest": extra / largest,
        }
    table = time_rounds(optimizers, rounds, device)
    ratios = table.div(table[RELATIVE_TO], axis=0)
    for name in optimizers:
        rows[name] |= {
            "step_ms": 1e3 * table[name].median(),
            "ratio": ratios[name].median(),
            "ratio_low": ratios[name].quantile(0.25),
            "ratio_high": ratios[name].quantile(0.75),
        }
    del optimizers
    gc.collect()
    return rows


def _peak_extra_bytes(step: Callable[[], Any], device: torch.device) -> float:
    """Return the extra memory at the peak of a step, in bytes; NaN if it is unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # return freed memory, so that reuse is counted
    if not reset_peak():
        return float("nan")
    before = resident_bytes()
    step()
    return max(0, peak_resident_bytes() - before)
