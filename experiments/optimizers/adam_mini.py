"""Adam-mini with blocks that fit each model family."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from adam_mini import Adam_mini
from torch import Tensor, nn


class AdamMini(Adam_mini):
    """The authors' Adam-mini (arXiv:2406.16793) with the size of the blocks set per parameter.

    All elements of a block share a second moment. The authors' library assumes that a head of
    queries or keys has width² / heads elements, and that every parameter is a matrix. This is wrong
    for heads with a size of their own (Qwen3), for keys from a latent (DeepSeek-V2), and for the
    experts of a mixture, which are one tensor of three dimensions. The library's rule for heads,
    blocks of a fixed number of consecutive elements, covers all cases: a head's rows are a block
    (Algorithm 3), every row of another matrix (an output neuron or a token) is a block, and so is
    every vector.

    Args:
        named_parameters: names and parameters; the last two dimensions of a matrix or of a stack of
            matrices are (out, in).
        head_rows: rows of a head, by the name of a module whose rows are split by heads.
        lr: learning rate.
        betas: decay rates of the first and the second moment.
        eps: added to the square root of the second moment.
        weight_decay: decoupled.

    Raises:
        ValueError: the rows of a matrix are not a multiple of a head's rows.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        head_rows: dict[str, int],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(named_parameters, lr, betas, eps, weight_decay, verbose=False)
        for group in self.param_groups:
            (param,) = group["params"]
            if param.ndim < 2:
                continue
            rows = next((n for part, n in head_rows.items() if part in group["name"].split(".")), 1)
            if param.shape[-2] % rows:
                raise ValueError(
                    f"{group['name']} has {param.shape[-2]} rows, but head_rows must divide them:"
                    f" {rows}"
                )
            group["block_numel"] = rows * param.shape[-1]
            self.wqk_names.add(group["name"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:
        """Take one step, each group with its own block size."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            for group in groups:
                self.head_numel = group.get("block_numel")
                self.param_groups = [group]
                super().step()
        finally:
            self.param_groups = groups
        return loss
