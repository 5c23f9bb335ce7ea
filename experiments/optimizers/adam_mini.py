"""Adam-mini with the blocks of each family of models."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from adam_mini import Adam_mini
from torch import Tensor, nn


class AdamMini(Adam_mini):
    """The authors' Adam-mini (arXiv:2406.16793), told which rows of a matrix share a learning rate.

    The library takes every head of queries and keys to have width² / heads elements, and every
    parameter to be a matrix. Neither holds where heads have a size of their own (Qwen3), where keys
    come from a latent (DeepSeek-V2), or where the experts of a block are one tensor of three
    dimensions. Its rule for heads, a block for so many elements in a row, covers all of them: the
    rows of a head share a block (Algorithm 3), and of other matrices each row, an output neuron or
    a token, has its own. Vectors have one block each.

    Args:
        named_parameters: names and parameters; those of two and more dimensions hold a linear map
            of shape (out, in) in the last two.
        head_rows: rows of a head by the name of the module that is split by heads.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled.

    Raises:
        ValueError: a matrix is not split into whole heads.
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
        """Take a step of every group with the size of its own blocks."""
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
