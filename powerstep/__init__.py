"""PowerStep (arXiv:2605.10335): a memory-efficient optimizer for PyTorch.

Example:
    ```python
    from powerstep import PowerStep

    optimizer = PowerStep(model.parameters(), lr=6e-4, weight_decay=0.1)
    ```
"""

from powerstep.functional import powerstep_, signed_power
from powerstep.optimizer import PowerStep
from powerstep.quantization import (
    dequantize_blockwise,
    pack_int4,
    quantize_blockwise,
    unpack_int4,
)

__all__ = [
    "PowerStep",
    "dequantize_blockwise",
    "pack_int4",
    "powerstep_",
    "quantize_blockwise",
    "signed_power",
    "unpack_int4",
]
__version__ = "0.1.0"
