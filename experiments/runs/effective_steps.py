"""The files of a run that logs its effective steps: histograms, comparisons and rounding errors.

With m the momentum of PowerStep and v̂ the second moment of Adam, both of the gradients of the run,
the effective step of a coordinate is η·|m|^(β-1) for PowerStep and η/(√v̂ + ε) for Adam.

This module imports neither torch nor pandas.
"""

import math
from pathlib import Path
from typing import Any

from experiments.files import atomic

HISTOGRAMS_FILE = "effective_steps.parquet"
COMPARISONS_FILE = "effective_steps_compared.parquet"
ROUNDING_FILE = "rounding.parquet"
FILES = (HISTOGRAMS_FILE, COMPARISONS_FILE, ROUNDING_FILE)

GAMMA, BETA = 0.9, 0.1  # of PowerStep, unless a run varies them (arXiv:2605.10335, section 5.1)
BETAS, EPS = (0.9, 0.95), 1e-8  # of Adam, from the same section

ALL = "all"  # the layer type of all parameters together
# Types of layers, and what the names of their parameters contain. The first match counts.
LAYERS = {
    "norm": "norm|ln_",
    "position": "position",
    "embedding": "embed",
    "output": "lm_head",
    "router": r"mlp\.gate\.",
    "q": "q_proj",
    "k": r"\.k_proj",
    "v": r"\.v_proj",
    "kv": "kv_[ab]_proj",
    "mlp out": r"mlp\.o_proj|down_proj",
    "mlp in": r"mlp\.i_proj|gate_proj|up_proj",
    "attention out": r"o_proj",
}
QUANTITIES = ("momentum", "adam_denominator", "adam_update")  # |m|, √v̂ + ε, |m̂|/(√v̂ + ε)

# A bin is a quarter of the numbers between two powers of two: the exponent and the first two bits
# of the fraction of an fp32 number. Bins 0 to 3 hold the denormals.
BINS = 1024
MANTISSA_BITS = 2

# Bins of the joint histogram of log2|m| and log2 of Adam's denominator, on both axes.
JOINT_BINS, JOINT_LOW, JOINT_HIGH = 64, -32.0, 0.0


def bin_edges() -> list[float]:
    """Return the lower edges of all bins; those of the last four bins are infinite."""
    denormals = [math.ldexp(quarter / 4, -126) for quarter in range(4)]
    normals = [
        math.ldexp(1 + quarter / 4, exponent - 127)
        for exponent in range(1, 255)
        for quarter in range(4)
    ]
    return [*denormals, *normals, *[math.inf] * 4]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a parquet file.

    Raises:
        FileError: the file cannot be written.
    """
    import pyarrow as pa  # slow, and launchers do without
    from pyarrow import parquet

    with atomic(path) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows), temporary)
