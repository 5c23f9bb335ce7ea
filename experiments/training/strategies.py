"""Lightning's strategies for the processes of a run, and how a model is split over them."""

import os
import re
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
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
from torch.optim import Optimizer

from experiments.training.checkpoint import by_number, check_shapes
from experiments.training.checkpoint_file import CheckpointFile
from experiments.training.parallel import Parallel

_LAYOUTS = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
_SUMMED = "replicated_with_grad_allreduce"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def environment() -> ClusterEnvironment:
    """Return who started this process: submitit in a job of SLURM, torchrun, or a user.

    Lightning must not requeue jobs: submitit does.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment()


def trainer_arguments(parallel: Parallel) -> dict[str, Any]:
    """Return what Lightning's Trainer must know of the processes."""
    strategy: Any = "auto"
    if parallel.processes > 1:
        strategy = DDPStrategy() if parallel.strategy == "ddp" else ShardedStrategy(parallel)
    return {
        "num_nodes": parallel.nodes,
        "devices": parallel.tasks_per_node,
        "strategy": strategy,
        "plugins": [environment(), CheckpointFile()],
        "use_distributed_sampler": False,  # the module gives each process its part
    }


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2, with tensor parallelism; its checkpoint is one file, which any process count can load.

    Lightning would number the optimizer's states in the order of the model's parameters, which is
    not that of the optimizer's groups; here they have the parameters' names.
    """

    def __init__(self, parallel: Parallel) -> None:
        super().__init__(
            parallel.data_parallel, parallel.tensor_parallel, save_distributed_checkpoint=False
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state, in the first process."""
        optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning wraps it
        return get_optimizer_state_dict(self.model, optimizer, options=_WHOLE)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Give each process its part of what a checkpoint holds."""
        checkpoint = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only
        )
        set_model_state_dict(self.model, checkpoint["state_dict"], options=_WHOLE)
        (state,) = checkpoint.pop("optimizer_states")
        (optimizer,) = self.optimizers
        if state["state"]:
            check_shapes(state, get_optimizer_state_dict(self.model, optimizer))
            set_optimizer_state_dict(self.model, optimizer, state, options=_WHOLE)
        else:  # torch would look there for the device
            optimizer.load_state_dict(by_number(state, self.model))
        return checkpoint


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
