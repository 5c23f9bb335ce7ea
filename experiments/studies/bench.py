"""What a step of each optimizer costs, side by side (`make bench`).

Every round takes one step of each optimizer of a group, so that whatever else the machine is doing
falls on all of them; torch's fused AdamW is in every group, and the ratios are to its step in the
same round.
"""

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from experiments.files import atomic
from experiments.optimizers.build import state_bytes
from experiments.plan.profile import load_profile
from experiments.runs.provenance import provenance
from powerstep import PowerStep

REFERENCE = "AdamW, fused"
GROUP_SIZE = 4  # optimizers measured together, the reference aside: their states share the memory
WARM_UP = 2  # steps that are not timed
EXTRAS = ("bitsandbytes", "torchao")  # what pyproject.toml's extra `bench` adds
LR = 1e-6  # the parameters hardly move, and every optimizer can have the same ones

Params = list[tuple[str, nn.Parameter]]


class Formula:
    """The paper's formula line by line, each line a pass through the memory."""

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


def _plain(path: str, **arguments: Any) -> Callable[[Params], Any]:
    """Return what makes an optimizer of a class by its path, with weight decay 0.1."""

    def make(params: Params) -> Any:
        module, _, name = path.rpartition(".")
        optimizer_class = getattr(importlib.import_module(module), name)
        decay = {} if path == "torch.optim.SGD" else {"weight_decay": 0.1}
        return optimizer_class([p for _, p in params], lr=LR, **decay | arguments)

    return make


def _adam_mini(params: Params) -> Any:
    """Give Adam-mini the queries, keys and values of each layer apart, as it wants them."""
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


_ADAFACTOR = load_profile("laptop").optimizers["adafactor"].args
OPTIMIZERS: dict[str, Callable[[Params], Any]] = {
    REFERENCE: _plain("torch.optim.AdamW", fused=True),
    "AdamW, foreach": _plain("torch.optim.AdamW", foreach=True),
    "AdamW, for-loop": _plain("torch.optim.AdamW", foreach=False),
    "SGD with momentum, fused": _plain("torch.optim.SGD", momentum=0.9, fused=True),
    "PowerStep fp32": _plain("powerstep.PowerStep"),
    "PowerStep bf16": _plain("powerstep.PowerStep", state_precision="bf16"),
    "PowerStep int8": _plain("powerstep.PowerStep", state_precision="int8"),
    "PowerStep int4": _plain("powerstep.PowerStep", state_precision="int4"),
    "PowerStep fp32, eager": _plain("powerstep.PowerStep", compiled=False),
    "PowerStep fp32, foreach": _plain("powerstep.PowerStep", foreach=True),
    "PowerStep int8, eager": _plain("powerstep.PowerStep", state_precision="int8", compiled=False),
    "PowerStep's formula, eager": lambda params: Formula([p for _, p in params]),
    "SignSGD": _plain("powerstep.baselines.SignSGD"),
    "pbSGDM": _plain("powerstep.baselines.PbSGDM"),
    "AdamS": _plain("powerstep.baselines.AdamS"),
    "Stacey(p,2)": _plain("powerstep.baselines.Stacey"),
    "AdamW int8, naive": _plain("powerstep.baselines.NaiveAdamWInt8"),
    "Adafactor": _plain("transformers.optimization.Adafactor", **_ADAFACTOR),
    "Lion": _plain("lion_pytorch.Lion"),
    "Adam-mini": _adam_mini,
    "AdamW 8-bit, torchao": _plain("torchao.optim.AdamW8bit"),
    "AdamW 8-bit, bitsandbytes": _plain("bitsandbytes.optim.AdamW8bit"),
}


def gpt2_shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of GPT-2 124M without biases: 75 of them, 124.4 million elements."""
    layer = {
        "ln_1": (768,),
        "attn.qkv_proj": (3 * 768, 768),
        "attn.o_proj": (768, 768),
        "ln_2": (768,),
        "mlp.i_proj": (4 * 768, 768),
        "mlp.o_proj": (768, 4 * 768),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (50304, 768), "position": (1024, 768)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(12) for name, shape in layer.items()}
    return shapes | {"ln_f": (768,)}


def measure(shapes: dict[str, tuple[int, ...]], names: list[str], rounds: int) -> pd.DataFrame:
    """Measure a step of each optimizer.

    Args:
        shapes: of the parameters, by name.
        names: of OPTIMIZERS, REFERENCE among them.
        rounds: timed steps of each.

    Returns:
        A row each: milliseconds of a step (median), ratio to the reference (median and quartiles),
        seconds of the first step, which may compile, state bytes a parameter, and the peak of extra
        memory during a step in MB and in largest parameters. Where an optimizer is not installed
        the numbers are missing.
    """
    generator = torch.Generator().manual_seed(0)
    params: Params = []
    for name, shape in shapes.items():
        param = nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        param.grad = 1e-3 * torch.randn(shape, generator=generator)
        params.append((name, param))
    others = [name for name in names if name != REFERENCE]
    rows = {}
    for start in range(0, max(1, len(others)), GROUP_SIZE):
        group = _measure_group(params, [REFERENCE, *others[start : start + GROUP_SIZE]], rounds)
        rows = group | rows  # the reference's row is that of its first group
    return pd.DataFrame([{"optimizer": name} | rows[name] for name in names])


def _measure_group(params: Params, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    largest = max(param.numel() * param.element_size() for _, param in params)
    count = sum(param.numel() for _, param in params)
    optimizers, rows = {}, {}
    for name in names:
        try:
            optimizer = OPTIMIZERS[name](params)
        except ImportError:
            rows[name] = {}
            continue
        first, *_ = [_seconds(optimizer.step) for _ in range(WARM_UP)]
        extra = _peak_extra_bytes(optimizer.step)
        optimizers[name] = optimizer
        rows[name] = {
            "first_step_s": first,
            "state_bytes_per_param": state_bytes(optimizer) / count,
            "peak_extra_mb": extra / 1e6,
            "peak_extra_in_largest": extra / largest,
        }
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(rounds):
        shift = number % len(optimizers)
        for name in [*optimizers][shift:] + [*optimizers][:shift]:
            times[name].append(_seconds(optimizers[name].step))
    table = pd.DataFrame(times)
    ratios = table.div(table[REFERENCE], axis=0)
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


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _peak_extra_bytes(step: Callable[[], Any]) -> float:
    """Return by how much a step raises the memory of the process; NaN where Linux does not tell."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else freed memory is used again and does not show
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    except OSError:
        return float("nan")
    before = _status_bytes("VmRSS")
    step()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def rounding_example(elements: int = 100_000, steps: int = 1000, lr: float = 1e-5) -> pd.DataFrame:
    """Return how far bf16 weights go, of the way meant, when each step is below their spacing.

    Args:
        elements: weights, of standard deviation 0.02, where bf16 numbers are up to 1.2e-4 apart.
        steps: of PowerStep, all in one direction.
        lr: the length of each step, with the momentum's own size taken out (β = 0).
    """
    start = 0.02 * torch.randn(elements, generator=torch.Generator().manual_seed(0))
    rows = []
    for label, dtype, stochastic in (
        ("fp32", torch.float32, False),
        ("bf16, rounded to nearest", torch.bfloat16, False),
        ("bf16, rounded stochastically", torch.bfloat16, True),
    ):
        torch.manual_seed(0)
        param = nn.Parameter(start.to(dtype))
        before = param.detach().double().clone()
        param.grad = torch.ones_like(param)
        optimizer = PowerStep([param], lr=lr, beta=0.0, stochastic_rounding=stochastic)
        for _ in range(steps):
            optimizer.step()
        moved = (before - param.detach().double()).mean().item()
        rows.append({"weights": label, "moved, of the way meant": moved / (steps * lr)})
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write them with where they come from."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.bench", description=__doc__
    )
    parser.add_argument("--rounds", type=_positive, default=15, help="timed steps of each")
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, default=[], metavar="NAME")
    parser.add_argument("--out", type=_folder, default=Path("results/bench"), help="folder")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    names = [name for name in OPTIMIZERS if name in {REFERENCE, *(options.only or OPTIMIZERS)}]
    _write(rounding_example(), options.out / "rounding")
    _write(measure(gpt2_shapes(), names, options.rounds), options.out / "step")
    source = provenance() | {
        "threads": torch.get_num_threads(),
        "command": shlex.join(["python", "-m", "experiments.studies.bench", *arguments]),
    }
    source["packages"] |= _extra_versions()
    with atomic(options.out / "provenance.json") as path:
        path.write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(source, indent=1))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}, but it must be a number from 1 on")
    return int(text)


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"it is {text!r}, but that is no folder")
    return path


def _extra_versions() -> dict[str, str | None]:
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    return {name: installed.get(name) for name in EXTRAS}


def _write(table: pd.DataFrame, target: Path) -> None:
    with atomic(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False)
    shown = table.astype(object).where(table.notna(), None)  # None is left empty, NaN is not
    is_missing = table.iloc[:, 1:].isna().all(axis=1)
    shown[table.columns[0]] += is_missing.map({True: " (not installed)", False: ""})
    text = shown.to_markdown(index=False, floatfmt=".3f", missingval="")
    with atomic(target.with_suffix(".md")) as path:
        path.write_text(text + "\n", encoding="utf-8")
    print(text, end="\n\n")


if __name__ == "__main__":
    main()
