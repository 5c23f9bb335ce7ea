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

# Elements of all parameters from which compiling pays by default: below it the eager path is done
# with hundreds of steps before a compiler has made the quicker one.
COMPILE_FROM = 10_000_000
# Elements of one parameter from which calling a kernel costs less than several operations do.
KERNEL_FROM = 2**14


class PowerStep(ElementwiseOptimizer):
    """PowerStep (arXiv:2605.10335, Algorithm 1; section 4 for the int8 state).

        m ← γ·m + g
        θ ← θ - η·(sign(m)·|m|^β + λ·θ)

    Keeps one buffer a parameter, against the two of Adam: 4 bytes a parameter in fp32, 2 in bf16,
    1 + 4/block_size in int8, 1/2 + 4/block_size in int4. Arithmetic is fp32 whatever the dtype of
    the parameters. A NaN or infinity in a gradient stays in the momentum: skip such steps, as
    `torch.amp.GradScaler` does, or stop.

    There are three paths, which agree up to the last bits of fp32: one parameter after the other;
    `foreach`, several in one launch; and `compiled`, one kernel made by torch.compile. The compiled
    one covers fp32, bf16 and int8 state and contiguous fp32, bf16 and fp16 parameters; what it does
    not cover takes the first path.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0. A tensor is read at each step, and never recompiles.
        gamma: γ, the momentum's decay, in [0, 1]; "momentum" to schedulers that cycle it.
        beta: β, the exponent of the signed power transform, in [0, 1]. 0 is sign momentum,
            1 is SGD with momentum.
        weight_decay: λ, decoupled; at least 0.
        state_precision: how the momentum is kept between steps: "fp32", "bf16", or blockwise
            quantised to "int8" or "int4".
        block_size: elements that share one scale of a quantised state; at least 1. Blocks run
            through the flattened parameter, or of a sharded one through each process's shard.
        maximize: go up the gradient instead of down.
        stochastic_rounding: round bf16 parameters up or down at random, so that the expectation
            is right, instead of to the nearest. A step below half their spacing is lost otherwise.
            Processes that hold copies of a parameter must be seeded alike, or the copies drift.
        foreach: take the foreach path. None takes it for parameters on an accelerator.
        compiled: take the compiled path. None takes it from 10 million parameters on. Where there
            is no compiler it warns, and takes another path.

    Raises:
        ValueError: an argument lies outside the range given here, a parameter has another dtype
            than fp32, fp64, bf16 and fp16, or `foreach` and `compiled` are both asked for.
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
        """Take the steps of whole rows by a compiled kernel, and those of all else eagerly."""
        small = [param for param in params if local(param).numel() < KERNEL_FROM]
        self._step_foreach(small, group)
        numbers: dict[torch.device, Tensor] = {}
        for param in params:
            if local(param).numel() < KERNEL_FROM:
                continue
            device = local(param).device
            if device not in numbers:
                numbers[device] = kernel_numbers(group, device)
            # These need no temporaries, which pieces would keep small.
            is_lean = group["state_precision"] in ("fp32", "bf16") and not (
                group["stochastic_rounding"] and param.dtype == torch.bfloat16
            )
            limit = max(1, local(param).numel()) if is_lean else None
            for piece in self._pieces(param, group, limit):
                done = step_rows(piece, numbers[device])
                if done < piece.numel:
                    self._step_piece(piece.cut(done, piece.numel), group, step=0)

    def _step_foreach(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Take the steps of several parameters at a time, as many as make up one large piece."""
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
    """Take the steps of a batch, and empty it."""
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
