"""What a step of each optimizer costs, side by side (`make bench`).

Every round takes one step of each optimizer of a group, so that whatever else the machine is doing
falls on all of them; torch's fused AdamW is in every group, and the ratios are to its step in the
same round.
"""

import argparse
import importlib
import importlib.metadata
import json
import shlex
import sys
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from experiments.files import atomic
from experiments.runs.provenance import provenance
from experiments.studies.step_cost import OPTIMIZERS, REFERENCE, gpt2_shapes, measure
from powerstep import PowerStep

EXTRAS = ("bitsandbytes", "torchao")  # what pyproject.toml's extra `bench` adds


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
