"""PowerStep as a `torch.optim.Optimizer`."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from powerstep.arguments import ArgumentRule, between, one_of
from powerstep.base import ElementwiseOptimizer
from powerstep.compiled import kernel_numbers, step_rows
from powerstep.dtensors import local
from powerstep.functional import foreach_powerstep_, powerstep_
from powerstep.pieces import Piece, Work, piece_limit

# Number of elements of all parameters from which compiled=None compiles. For smaller models, the
# eager path takes hundreds of steps in the time that compiling takes.
COMPILE_FROM = 10_000_000
# Number of elements of one parameter from which a kernel call is faster than the eager operations.
KERNEL_FROM = 2**14


class PowerStep(ElementwiseOptimizer):
    """PowerStep (arXiv:2605.10335, Algorithm 1; section 4 for the int8 state).

        m ← γ·m + g
        θ ← θ - η·(sign(m)·|m|^β + λ·θ)

    PowerStep has one buffer per parameter; Adam has two. The buffer takes 4 bytes per parameter in
    fp32, 2 in bf16, 1 + 4/block_size in int8, and 1/2 + 4/block_size in int4. The arithmetic is
    fp32 for every parameter dtype. A NaN or an infinity in a gradient stays in the momentum: skip
    such steps, as `torch.amp.GradScaler` does, or stop the training.

    There are three code paths, which agree up to the last bits of fp32: the default updates one
    parameter after another, `foreach` updates several per kernel launch, and `compiled` uses one
    kernel made by torch.compile. The compiled path supports fp32, bf16 and int8 states and
    contiguous fp32, bf16 and fp16 parameters; the others use the default path.

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
        foreach: use the foreach path. None uses it for parameters on an accelerator.
        compiled: use the compiled path. None uses it from 10 million parameters on. Without a
            compiler it warns and uses another path.

    Raises:
        ValueError: an argument is out of range, a parameter has another dtype than fp32, fp64,
            bf16 or fp16, or `foreach` and `compiled` are both True.
    """

    buffers = ("momentum",)
    rules: ClassVar[dict[str, ArgumentRule]] = {
        "gamma": between(0, 1),
        "beta": between(0, 1),
        "foreach": one_of(None, True, False),
        "compiled": one_of(None, True, False),
    }
    legacy_defaults: ClassVar[dict[str, Any]] = {"foreach": None, "compiled": None}

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
        }
        super().__init__(params, defaults)

    @classmethod
    def _check_arguments(cls, values: dict[str, Any]) -> None:
        super()._check_arguments(values)
        if values["foreach"] and values["compiled"]:
            raise ValueError("foreach and compiled are both True, but only one can be")

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        powerstep_(work.theta, work.grad, *work.buffers, **_hyperparameters(group))

    def _step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():  # the caller compiles the whole step
            super()._step_group(params, group)
        elif self._is_compiled(group):
            self._step_compiled(params, group)
        elif _is_foreach(params, group):
            self._step_foreach(params, group)
        else:
            super()._step_group(params, group)

    def _is_compiled(self, group: dict[str, Any]) -> bool:
        if group["compiled"] is not None or group["foreach"]:
            return bool(group["compiled"])
        params = [param for group in self.param_groups for param in group["params"]]
        return sum(param.numel() for param in params) >= COMPILE_FROM and all(
            param.device.type in ("cpu", "cuda") for param in params
        )

    def _step_compiled(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update complete rows of large parameters with a compiled kernel, and the rest eagerly."""
        small = [param for param in params if local(param).numel() < KERNEL_FROM]
        self._step_foreach(small, group)
        numbers: dict[torch.device, Tensor] = {}
        for param in params:
            if local(param).numel() < KERNEL_FROM:
                continue
            device = local(param).device
            if device not in numbers:
                numbers[device] = kernel_numbers(group, device)
            # Pieces limit the memory of temporaries, and these kernels have none.
            is_lean = group["state_precision"] in ("fp32", "bf16") and not (
                group["stochastic_rounding"] and param.dtype == torch.bfloat16
            )
            limit = max(1, local(param).numel()) if is_lean else None
            for piece in self._pieces(param, group, limit):
                done = step_rows(piece, numbers[device])
                if done < piece.numel:
                    self._step_piece(piece.cut(done, piece.numel), group, step=0)

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
