"""Sharding a model over the processes of a run."""

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

from experiments.models.blocks import blocks

# The tensor-parallel styles of `transformers`, as torch's classes. Qwen3 replicates the norms of
# its queries and keys by the last style; each process applies them to its own attention heads.
_PARALLEL_STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
_REPLICATED_OVER_HEADS = "replicated_with_grad_allreduce"


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a model in place: its matrices by tensor parallelism, then all weights by FSDP2.

    The shards of a model on the meta device are there too, so that no process holds the whole.

    Args:
        model: the model.
        mesh: a device mesh with the dimensions data_parallel and tensor_parallel.
    """
    if mesh["tensor_parallel"].size() > 1:
        _split_matrices(model, mesh["tensor_parallel"])
    for block in blocks(model):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a DTensor; any other tensor is returned unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _split_matrices(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard matrices by the plan of `transformers`; all other weights are replicated."""
    plan, styles = _tensor_parallel_plan(model), {}
    for name, module in model.named_modules():
        style = plan.get(_plan_key(name))
        if style in _PARALLEL_STYLES:
            styles[name] = _PARALLEL_STYLES[style]()
        elif list(module.parameters(recurse=False)):
            # Dimension 2 of the norms' input is the heads.
            styles[name] = _Replicated(Shard(2) if style == _REPLICATED_OVER_HEADS else Replicate())
    parallelize_module(model, mesh, styles)
    model.tie_weights()  # parallelize_module gave each module its own tensor


class _Replicated(ParallelStyle):
    """A parallel style that replicates weights as DTensors, so that optimizers get only DTensors.

    Args:
        inputs: the placement of the module's input and output.
    """

    def __init__(self, inputs: Placement) -> None:
        self._inputs = inputs

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, mesh, input_fn=self._to_dtensor, output_fn=self._to_local)

    def _to_dtensor(self, _: nn.Module, inputs: tuple[Tensor], mesh: DeviceMesh) -> tuple[DTensor]:
        return tuple(DTensor.from_local(each, mesh, [self._inputs]) for each in inputs)

    def _to_local(self, _: nn.Module, output: DTensor, __: DeviceMesh) -> Tensor:
        return output.to_local()


def _tensor_parallel_plan(model: nn.Module) -> dict[str, str]:
    """Return the style of each layer that `transformers` shards, by its name with * for numbers.

    https://huggingface.co/docs/transformers/v5.10.1/tensor_parallelism
    """
    return model.model.config.base_model_tp_plan


def _plan_key(name: str) -> str:
    """Return the key of a module in the tensor-parallel plan."""
    return re.sub(r"\d+", "*", name.removeprefix("model.model.").removesuffix(".weight"))
