"""Checks of an optimizer in two processes that train one model."""

from datetime import timedelta
from pathlib import Path
from time import monotonic

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from experiments.conformance.finding import Finding
from experiments.conformance.manners import difference, guarded
from experiments.conformance.trial import Trial
from experiments.optimizers.settings import OptimizerSpec
from experiments.training.sharding import shard

PROCESSES = 2
STEPS = 6
# The largest accepted distance between the final weights, divided by the distance from the initial
# ones. FSDP2 has the larger one because a shard is quantized in other blocks than the whole tensor:
# with 4-bit state, the weights of correct optimizers differ by 0.04.
_TOLERANCE = {"ddp": 1e-3, "fsdp": 0.1}


def check_pair(
    rank: int, spec: OptimizerSpec, lr: float, strategy: str, folder: Path
) -> tuple[Finding, float]:
    """Train as one of two processes, and compare the weights with those of one process.

    Args:
        rank: number of this process, 0 or 1.
        spec: the optimizer.
        lr: its learning rate.
        strategy: "ddp", or "fsdp" for FSDP2.
        folder: an empty folder, where the processes meet.

    Returns:
        The finding, and its time by a clock that the processes share: a process that only lost its
        partner fails later than the partner.
    """
    store = dist.FileStore(str(folder / "store"), PROCESSES)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=120)
    )
    try:
        return guarded(spec, lambda: _compared(rank, spec, lr, strategy)), monotonic()
    finally:
        dist.destroy_process_group()


def _compared(rank: int, spec: OptimizerSpec, lr: float, strategy: str) -> Finding:
    # One process alone averages the gradients of the pair's micro-batches. Sums are rounded alike,
    # so with DDP a correct optimizer's weights are equal bit for bit. All of this is on the CPU,
    # because gloo reduces there, and NCCL would need two GPUs.
    halves = (slice(0, 2), slice(2, 4))
    alone = Trial(spec, lr, parts=halves, device="cpu")
    start = alone.weights()
    expected = alone.train(STEPS).weights()
    wrapped = DistributedDataParallel if strategy == "ddp" else _sharded
    pair = Trial(spec, lr, wrapped=wrapped, parts=halves[rank : rank + 1], device="cpu")
    pair.train(STEPS)
    apart = difference(pair.weights(), expected, start)
    if not apart <= _TOLERANCE[strategy]:
        return Finding("no", f"two processes end {apart:.1%} of the way apart from one process")
    return Finding("yes")


def _sharded(model: nn.Module) -> nn.Module:
    names = ("data_parallel", "tensor_parallel")
    shard(model, init_device_mesh("cpu", (PROCESSES, 1), mesh_dim_names=names))
    return model
