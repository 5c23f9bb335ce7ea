"""How a model is split over the processes of a run."""

import re

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

_LAYOUTS = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


_SUMMED = "replicated_with_grad_allreduce"


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split a model over the processes in place: matrices by tensor parallelism, then all by FSDP2.

    Each process has the whole model when it begins.

    Args:
        model: with its weights.
        mesh: of dimensions data_parallel and tensor_parallel.
    """
    if mesh["tensor_parallel"].size() > 1:
        _split_matrices(model, mesh["tensor_parallel"])
    for block in _blocks(model):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])


def whole(tensor: Tensor) -> Tensor:
    """Return what the parts of a tensor make up together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _split_matrices(model: nn.Module, mesh: DeviceMesh) -> None:
    """Split matrices by the plan of `transformers`; every process has all the other weights."""
    plan, styles = _plan(model), {}
    for name, module in model.named_modules():
        how = plan.get(_pattern(name))
        if how in _LAYOUTS:
            styles[name] = _LAYOUTS[how]()
        elif list(module.parameters(recurse=False)):
            # Norms of the heads see the heads of their process, the third dimension.
            styles[name] = _Replicated(Shard(2) if how == _SUMMED else Replicate())
    parallelize_module(model, mesh, styles)
    model.model.tie_weights()  # each module got a tensor of its own


class _Replicated(ParallelStyle):
    """Weights that every process has, as DTensors, so that optimizers meet one kind of tensor.

    Args:
        inputs: how the processes share what the module is given, and what it returns.
    """

    def __init__(self, inputs: Placement) -> None:
        self._inputs = inputs

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, mesh, input_fn=self._enter, output_fn=self._leave)

    def _enter(self, _: nn.Module, inputs: tuple[Tensor], mesh: DeviceMesh) -> tuple[DTensor]:
        return tuple(DTensor.from_local(each, mesh, [self._inputs]) for each in inputs)

    def _leave(self, _: nn.Module, output: DTensor, __: DeviceMesh) -> Tensor:
        return output.to_local()


def _plan(model: nn.Module) -> dict[str, str]:
    """Return how `transformers` splits a model's layers, by their names, * for a number."""
    return model.model.config.base_model_tp_plan


def _pattern(name: str) -> str:
    """Return the key of `_plan` that a module or a parameter has."""
    return re.sub(r"\d+", "*", name.removeprefix("model.model.").removesuffix(".weight"))


def _blocks(model: nn.Module) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))
