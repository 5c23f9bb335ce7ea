"""PowerStep as a `torch.optim.Optimizer`."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, between, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.functional import foreach_powerstep_, powerstep_
from powerstep.kernels.formula import Formula
from powerstep.pieces import Piece, Work, piece_limit


class PowerStep(ElementwiseOptimizer):
    """PowerStep (arXiv:2605.10335, Algorithm 1; section 4 for the int8 state).

        m ← γ·m + g
        θ ← θ - η·(sign(m)·|m|^β + λ·θ)

    PowerStep has one buffer per parameter; Adam has two. The buffer takes 4 bytes per parameter in
    fp32, 2 in bf16, 1 + 4/block_size in int8, and 1/2 + 4/block_size in int4. The arithmetic is
    fp32 for every parameter dtype. A NaN or an infinity in a gradient stays in the momentum: skip
    such steps, as `torch.amp.GradScaler` does, or stop the training.

    Three code paths agree up to the last bits of fp32. The default is one kernel call for all
    parameters of a group. The kernels are generated: on a CPU in C, compiled by the system's C
    compiler in a fraction of a second, once for a machine, and on CUDA in Triton. They support
    contiguous fp32, bf16 and fp16 parameters, all state precisions, and blocks of at most 4096
    elements (an even number for int4, a power of two on CUDA). Where there is no kernel or no
    compiler, `foreach` updates several parameters per kernel launch, and the eager path updates one
    after another with torch's operations. The eager path defines the update.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0. A tensor is read at each step and never recompiles.
        gamma: γ, the decay factor of the momentum, in [0, 1]. Schedulers that cycle "momentum"
            cycle γ.
        beta: β, the exponent of the signed power transform, in [0, 1]. 0 is sign momentum,
            1 is SGD with momentum.
        weight_decay: λ, decoupled; at least 0.
        state_precision: how the momentum is stored between steps: "fp32", "bf16", or blockwise
            quantised to "int8" or "int4".
        block_size: elements that share one scale of a quantised state; at least 1. Blocks are
            consecutive elements of the flattened parameter, or of each process's shard of it.
        maximize: maximize the objective instead of minimizing it.
        stochastic_rounding: round bf16 parameters stochastically, with the right expectation,
            instead of to nearest. Rounding to nearest loses steps below half the spacing of bf16
            numbers. Processes that hold copies of a parameter need the same seed, or the copies
            diverge.
        foreach: use the foreach path. None uses it for parameters on an accelerator that have no
            kernel.
        compiled: use kernels; False never uses them. None uses them unless `foreach` is True.
            Without a compiler, True and None warn and use another path.
        capturable: whether a CUDA graph may record the steps, as in torch's optimizers. A learning
            rate that changes between the replays must be a tensor on the device. PowerStep itself
            keeps no step count, so the value changes nothing.

    Raises:
        ValueError: an argument is out of range, a parameter has another dtype than fp32, fp64,
            bf16 or fp16, or `foreach` and `compiled` are both True.
    """

    buffers = ("momentum",)
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "gamma": between(0, 1),
        "beta": between(0, 1),
        "foreach": one_of(None, True, False),
    }
    legacy_defaults: ClassVar[dict[str, Any]] = {"foreach": None}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        gamma: float = 0.9,
        beta: float = 0.1,
        weight_decay: float = 0.0,
        *,
        state_precision: Literal["fp32", "bf16", "int8", "int4"] = "fp32",
        block_size: int = 128,
        maximize: bool = False,
        stochastic_rounding: bool = False,
        foreach: bool | None = None,
        compiled: bool | None = None,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "beta": beta,
            "weight_decay": weight_decay,
            "state_precision": state_precision,
            "block_size": block_size,
            "maximize": maximize,
            "stochastic_rounding": stochastic_rounding,
            "foreach": foreach,
            "compiled": compiled,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    @classmethod
    def _check_arguments(cls, values: dict[str, Any]) -> None:
        super()._check_arguments(values)
        if values["foreach"] and values["compiled"]:
            raise ValueError("foreach and compiled are both True, but only one can be")

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        powerstep_(work.theta, work.grad, *work.buffers, **_hyperparameters(group))

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula:
        return Formula(
            """
            momentum = gamma * momentum + grad
            theta = decay * theta - lr * signed_power(momentum)
            """,
            {
                "lr": group["lr"],
                "gamma": group["gamma"],
                "decay": 1 - group["lr"] * group["weight_decay"],
            },
            exponent=group["beta"],
        )

    def _step_each(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        if _is_foreach(params, group) and not torch.compiler.is_compiling():
            self._step_foreach(params, group)
        else:
            super()._step_each(params, group)

    def _step_foreach(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update parameters in batches that have at most `piece_limit` elements."""
        batch: list[tuple[Piece, Work]] = []
        for param in params:
            for piece in self._pieces(param, group):
                work = piece.load()
                is_alike = not batch or (
                    batch[0][1].theta.dtype == work.theta.dtype
                    and batch[0][1].theta.device == work.theta.device
                )
                size = sum(other.numel for other, _ in batch) + piece.numel
                if not is_alike or size > piece_limit(work.theta.device):
                    _flush(batch, group)
                batch.append((piece, work))
        _flush(batch, group)


def _flush(batch: list[tuple[Piece, Work]], group: dict[str, Any]) -> None:
    """Update the parameters of a batch, then empty it."""
    if batch:
        foreach_powerstep_(
            [work.theta for _, work in batch],
            [work.grad for _, work in batch],
            [work.buffers[0] for _, work in batch],
            **_hyperparameters(group),
        )
        for piece, work in batch:
            piece.store(work)
        batch.clear()


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("lr", "gamma", "beta", "weight_decay")}


def _is_foreach(params: Sequence[Tensor], group: dict[str, Any]) -> bool:
    if group["foreach"] is None:
        return all(param.device.type not in ("cpu", "meta") for param in params)
    return group["foreach"]
