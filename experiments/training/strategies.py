"""Lightning's strategies for the processes of a run, and how a model is split over them."""

import os
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from experiments.training.checkpoint import by_number, check_shapes
from experiments.training.checkpoint_file import CheckpointFile
from experiments.training.parallel import Parallel

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
