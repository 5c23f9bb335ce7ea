"""The tables of `make bench`: the cost of a step, and the effect of stochastic rounding.

The steps are those of GPT-2 124M, and of small models, whose steps are mostly Python.
"""

import math
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from experiments.files import make_folder
from experiments.models.build import model_on_meta
from experiments.plan.reading import load_profile
from experiments.settings import ConfigError
from experiments.studies.bench_files import write_provenance, write_table
from experiments.studies.step_cost import OPTIMIZERS, RELATIVE_TO, gpt2_shapes, measure
from powerstep import PowerStep

SMALL_MODELS = ("gpt2-pico", "gpt2-nano")
SMALL_NAMES = (RELATIVE_TO, "AdamW, for-loop", "PowerStep fp32", "PowerStep int8")
SMALL_ROUNDS = 500  # timed steps per optimizer, which take less than a millisecond


def small_models() -> pd.DataFrame:
    """Measure steps of small models; one row per model and optimizer.

    Columns: step (model and optimizer), parameters, tensors, step_ms, ratio, ratio_low and
    ratio_high (see `measure`).
    """
    tables = []
    for model in SMALL_MODELS:
        settings = load_profile("laptop").models[model]
        shapes = {
            name: tuple(param.shape) for name, param in model_on_meta(settings).named_parameters()
        }
        table = measure(shapes, list(SMALL_NAMES), SMALL_ROUNDS)
        columns = table[["step_ms", "ratio", "ratio_low", "ratio_high"]]
        columns.insert(0, "step", model + ": " + table["optimizer"])
        columns.insert(1, "parameters", sum(math.prod(shape) for shape in shapes.values()))
        columns.insert(2, "tensors", len(shapes))
        tables.append(columns)
    return pd.concat(tables, ignore_index=True)


def rounding_example(elements: int = 100_000, steps: int = 1000, lr: float = 1e-5) -> pd.DataFrame:
    """Return how far weights in fp32 and bf16 move over many tiny steps, relative to exact steps.

    Each step is shorter than the spacing of bf16 numbers.

    Args:
        elements: number of weights, with standard deviation 0.02; neighbouring bf16 numbers of
            this size are up to 1.2e-4 apart.
        steps: number of steps of PowerStep, all in one direction.
        lr: length of each step, since β = 0.
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
        rows.append({"weights": label, "moved, relative to exact steps": moved / (steps * lr)})
    return pd.DataFrame(rows)


def write_bench(rounds: int, only: list[str], folder: Path) -> None:
    """Write the tables and their provenance to files, and print them.

    Args:
        rounds: number of timed steps per optimizer.
        only: names from step_cost.OPTIMIZERS; all of them if empty.
        folder: the folder for provenance.json, and for a CSV file and a Markdown file of each
            table: step, small_models and rounding.

    Raises:
        ConfigError: a value is not accepted.
    """
    if rounds < 1:
        raise ConfigError((), f"--rounds is {rounds}, but it must be at least 1")
    for name in only:
        if name not in OPTIMIZERS:
            accepted = "; ".join(OPTIMIZERS)
            raise ConfigError((), f"--only has {name!r}, but it must be one of {accepted}")
    make_folder(folder)
    names = [name for name in OPTIMIZERS if name in {RELATIVE_TO, *(only or OPTIMIZERS)}]
    write_table(rounding_example(), folder / "rounding")
    write_table(small_models(), folder / "small_models")
    write_table(measure(gpt2_shapes(), names, rounds), folder / "step")
    command = ["python", "-m", "experiments", "bench", "--rounds", str(rounds)]
    command += [*(["--only", *only] if only else []), "--out", str(folder)]
    write_provenance(folder / "provenance.json", command)
