"""Lightning's environment, strategy and Trainer arguments for the processes of a run."""

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

from experiments.optimizers.modes import switch_mode
from experiments.training.checkpoint import by_number, check_shapes
from experiments.training.checkpoint_file import CheckpointFile
from experiments.training.parallel import Parallel

# State dicts are not sharded: the first process holds all values on the CPU, the others none.
_FULL_STATE_DICT = StateDictOptions(full_state_dict=True, cpu_offload=True)


def environment() -> ClusterEnvironment:
    """Return Lightning's view of the process's launcher: submitit on SLURM, torchrun, or none.

    Lightning must not requeue the job, because submitit does.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        return SLURMEnvironment(auto_requeue=False)
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment()


def trainer_arguments(parallel: Parallel) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that depend on the processes."""
    strategy: Any = "auto"
    if parallel.processes > 1:
        strategy = DDPStrategy() if parallel.strategy == "ddp" else ShardedStrategy(parallel)
    return {
        "num_nodes": parallel.nodes,
        "devices": parallel.tasks_per_node,
        "strategy": strategy,
        "plugins": [environment(), CheckpointFile()],
        "use_distributed_sampler": False,  # LanguageModelRun splits the batches itself
    }


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 with tensor parallelism. Any number of processes can load its checkpoint, one file.

    Lightning would number the optimizer's states in the order of the model's parameters, but torch
    numbers them in the order of the optimizer's groups. Here they have the parameters' names.
    """

    def __init__(self, parallel: Parallel) -> None:
        super().__init__(
            parallel.data_parallel, parallel.tensor_parallel, save_distributed_checkpoint=False
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the full state dict in the first process, and an empty one in the others."""
        optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning wraps it
        return get_optimizer_state_dict(self.model, optimizer, options=_FULL_STATE_DICT)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Load a checkpoint; each process gets its shard of the model and the optimizer state."""
        checkpoint = torch.load(
            checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only
        )
        (state,) = checkpoint.pop("optimizer_states")
        (optimizer,) = self.optimizers
        if state["state"]:
            # torch takes a step if the optimizer has no state yet, so it must be in training mode.
            check_shapes(state, get_optimizer_state_dict(self.model, optimizer))
        switch_mode(optimizer, checkpoint.get("optimizer_trains", True))
        set_model_state_dict(self.model, checkpoint["state_dict"], options=_FULL_STATE_DICT)
        if state["state"]:
            set_optimizer_state_dict(self.model, optimizer, state, options=_FULL_STATE_DICT)
        else:  # torch's function takes the device from the state, and fails if it is empty
            optimizer.load_state_dict(by_number(state, self.model))
        return checkpoint
