"""SignSGD with momentum (Bernstein et al., arXiv:1802.04434, Algorithm 2)."""

from typing import ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, one_of
from powerstep.optimizer import PowerStep


class SignSGD(PowerStep):
    """SignSGD with the heavy-ball momentum of PowerStep (arXiv:2605.10335, section 5.1).

        m ← γ·m + g
        θ ← θ - η·(sign(m) + λ·θ)

    The original paper (Bernstein et al., arXiv:1802.04434, Algorithm 2) averages the gradients,
    m ← γ·m + (1-γ)·g. That m has the same sign, so the steps are the same. This class is PowerStep
    with β = 0.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        gamma: γ, the decay factor of the momentum, in [0, 1].
        weight_decay: λ, decoupled; at least 0.

    Raises:
        ValueError: an argument is out of range, or a parameter has another dtype than fp32, fp64,
            bf16 or fp16.
    """

    rules: ClassVar[dict[str, ArgumentRule]] = PowerStep.rules | {"beta": one_of(0)}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, gamma=gamma, beta=0.0, weight_decay=weight_decay)
