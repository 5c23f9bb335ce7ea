"""The time of an optimizer step per parameter, and the speed of the machine's matrix products.

From both follows which share of a training step the update takes, on any model and batch.
"""

import math
from pathlib import Path

import pandas as pd
import torch

from experiments.files import atomic
from experiments.studies.machine import accelerator_or_cpu, available_bytes, gflops
from experiments.studies.step_cost import (
    OPTIMIZERS,
    RELATIVE_TO,
    WARM_UP,
    Shapes,
    gpt2_shapes,
    make_params,
    time_rounds,
)

NAMES = (
    RELATIVE_TO,
    "AdamW, for-loop",
    "PowerStep fp32",
    "PowerStep bf16",
    "PowerStep int8",
    "PowerStep int4",
)
ROUNDS = 11  # timed steps per optimizer
# Weights, gradients, the states of all of NAMES (23.6 bytes), and buffers of a step.
_BYTES_PER_PARAMETER = 40
_QUARTILES = {"": 0.5, "_low": 0.25, "_high": 0.75}  # by the suffix of the column


def write_step_cost(path: Path) -> None:
    """Measure the step of each of NAMES at the shapes of GPT-2 124M, and write a row for each.

    Columns: optimizer (a key of step_cost.OPTIMIZERS), parameters, device (cpu or cuda), threads,
    rounds, gflops (1e9 operations per second of a large matrix product, on the same threads),
    step_ms, ratio, ns_per_parameter and extra_ns_per_parameter. The last four are medians over the
    rounds, with the quartiles in columns ending in _low and _high (step_ms has none). ratio and
    extra_ns_per_parameter compare with the step of torch's fused AdamW in the same round. If the
    memory does not suffice, the numbers are NaN.
    """
    with atomic(path) as file:
        step_times(gpt2_shapes(), ROUNDS).to_csv(file, index=False)


def step_times(shapes: Shapes, rounds: int) -> pd.DataFrame:
    """Measure the steps of all NAMES side by side; return the table of `write_step_cost`.

    Args:
        shapes: shapes of the parameters, by name.
        rounds: number of timed steps per optimizer.
    """
    device = accelerator_or_cpu()
    count = sum(math.prod(shape) for shape in shapes.values())
    table = pd.DataFrame({"optimizer": NAMES, "parameters": count, "device": device.type})
    table = table.assign(threads=torch.get_num_threads(), rounds=rounds)
    needed, available = count * _BYTES_PER_PARAMETER, available_bytes(device)
    if available < needed:
        print(f"not measured: {available / 1e9:.1f} GB are free, and {needed / 1e9:.1f} are needed")
        measured = pd.DataFrame(math.nan, index=NAMES, columns=_measured_columns())
        return table.assign(gflops=math.nan).join(measured, on="optimizer")
    params = make_params(shapes, device)
    optimizers = {name: OPTIMIZERS[name](params) for name in NAMES}
    time_rounds(optimizers, WARM_UP, device)
    times = time_rounds(optimizers, rounds, device)
    return table.assign(gflops=gflops(device)).join(_statistics(times, count), on="optimizer")


def _measured_columns() -> list[str]:
    """Return the names of the measured columns, in their order."""
    names = ("ratio", "ns_per_parameter", "extra_ns_per_parameter")
    return ["step_ms", *(name + suffix for name in names for suffix in _QUARTILES)]


def _statistics(times: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the measured columns, one row for each optimizer.

    Args:
        times: seconds of each step, one row a round and one column an optimizer.
        count: number of parameters.
    """
    reference = times[RELATIVE_TO]
    by_round = {
        "ratio": times.div(reference, axis=0),
        "ns_per_parameter": times * 1e9 / count,
        "extra_ns_per_parameter": times.sub(reference, axis=0) * 1e9 / count,
    }
    columns = {"step_ms": times.median() * 1e3} | {
        name + suffix: values.quantile(quantile)
        for name, values in by_round.items()
        for suffix, quantile in _QUARTILES.items()
    }
    return pd.DataFrame(columns)[_measured_columns()]
