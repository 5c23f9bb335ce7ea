"""The training that test_sharded_training runs in one process and in several."""

import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from powerstep import PowerStep
from powerstep.baselines import AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey

STEPS = 6
MORE_STEPS = 4  # after a checkpoint
LR = 1e-2
PRECISIONS = ("fp32", "bf16", "int8", "int4")

# Shapes whose shards on two processes are whole blocks of 128: halves; 3 and 2 rows; 1 and 0 rows.
WHOLE_BLOCKS = {"even": (4, 128), "uneven": (5, 256), "one_row": (1, 128), "vector": (256,)}
# Shapes whose shards are whole blocks although a row is shorter than a block.
SHORT_ROWS = {"rows": (4, 64), "filters": (8, 4, 4, 4)}
# Shapes in which a block of one process crosses the edge between two shards. The vector has two
# blocks in both cases: of 128 and 4 elements in one process, of 66 and 66 in two.
CUT_BLOCKS = {"weight": (5, 24), "bias": (5,), "one_row": (1, 7), "vector": (132,)}


@dataclass(frozen=True)
class Case:
    """Shapes of parameters, and the optimizer that updates them with synthetic gradients."""

    shapes: dict[str, tuple[int, ...]]
    arguments: dict[str, Any] = field(default_factory=lambda: {"weight_decay": 0.1})
    optimizer: type[torch.optim.Optimizer] = PowerStep
    dtype: torch.dtype = torch.float32
    by_columns: bool = False  # sharded by columns (tensor parallelism), not by fully_shard


def kept_in(state_precision, **others):
    return {"weight_decay": 0.1, "state_precision": state_precision} | others


BASELINES = {cls.__name__: cls for cls in (AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey)}
CASES = {
    **{f"whole {kind}": Case(WHOLE_BLOCKS, kept_in(kind)) for kind in PRECISIONS},
    **{f"foreach {kind}": Case(WHOLE_BLOCKS, kept_in(kind, foreach=True)) for kind in PRECISIONS},
    **{f"short {kind}": Case(SHORT_ROWS, kept_in(kind)) for kind in ("int8", "int4")},
    **{
        f"columns {kind}": Case({"weight": (6, 256)}, kept_in(kind), by_columns=True)
        for kind in PRECISIONS
    },
    **{f"cut {kind}": Case(CUT_BLOCKS, kept_in(kind)) for kind in PRECISIONS},
    **{
        f"linear {kind}": Case(CUT_BLOCKS, {"beta": 1.0, "state_precision": kind})
        for kind in ("int8", "int4")
    },
    # Steps large enough to move every bf16 number.
    "bf16 parameters": Case(WHOLE_BLOCKS, {"lr": 0.1}, dtype=torch.bfloat16),
    **{name: Case(WHOLE_BLOCKS, optimizer=cls) for name, cls in BASELINES.items()},
}
# Cases whose checkpoints any number of processes can load, and those that need the same number.
FOR_ANY = [
    *(f"whole {kind}" for kind in PRECISIONS),
    *("short int8", "short int4", "bf16 parameters", "NaiveAdamWInt8", "Stacey"),
]
FOR_AS_MANY = ["cut int8", "cut int4"]


class Parameters(nn.Module):
    def __init__(self, case, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in case.shapes.items():
            start = torch.randn(shape, generator=generator)
            self.register_parameter(name, nn.Parameter(start.to(case.dtype)))


def build(case, seed=0, **others):
    """Return the parameters, sharded if there are several processes, and their optimizer."""
    model = Parameters(case, seed)
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        if case.by_columns:
            for name, param in list(model.named_parameters()):
                sharded = distribute_tensor(param.detach(), mesh, [Shard(1)])
                model.register_parameter(name, nn.Parameter(sharded))
        else:
            fully_shard(model, mesh=mesh)
    return model, case.optimizer(model.parameters(), **{"lr": LR} | case.arguments | others)


def gradient(shape, step, index):
    """Return a gradient of mixed sizes, some of them exactly zero."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    grad = torch.randn(shape, generator=generator)
    grad *= 10.0 ** torch.empty(shape).uniform_(-6, 2, generator=generator)
    grad[torch.rand(shape, generator=generator) < 0.1] = 0
    return grad


def place(grad, param):
    """Set each process's part of a gradient, without a sum, so that nothing is rounded."""
    if not isinstance(param, DTensor):
        return grad
    if param.placements == (Shard(1),):
        # Tensor parallelism may leave a Partial gradient: the sum over processes is the gradient.
        summand = grad if dist.get_rank() == 0 else torch.zeros_like(grad)
        return DTensor.from_local(summand, param.device_mesh, [Partial()], run_check=False)
    whole = DTensor.from_local(
        grad, param.device_mesh, [Replicate()] * param.device_mesh.ndim, run_check=False
    )
    return whole.redistribute(placements=param.placements)


def take_steps(model, optimizer, shapes, steps, place=place):
    for step in steps:
        for index, (param, shape) in enumerate(zip(model.parameters(), shapes, strict=True)):
            param.grad = place(gradient(shape, step, index).to(param.dtype), param)
        optimizer.step()


def contents(model, optimizer):
    """Return the full parameters and states, and this process's shards of them."""
    tensors = {
        name: {"param": param.detach()} | optimizer.state[param]
        for name, param in model.named_parameters()
    }
    return {
        of.__name__: {
            name: {key: of(tensor).clone() for key, tensor in values.items()}
            for name, values in tensors.items()
        }
        for of in (whole, own)
    }


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def save(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    saved = {"weights": weights, "state": state}
    dcp.save(saved, checkpoint_id=folder, no_dist=not dist.is_initialized())


def load(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    saved = {"weights": weights, "state": state}
    dcp.load(saved, checkpoint_id=folder, no_dist=not dist.is_initialized())
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def step_on_given_gradients(name, folder):
    """Take steps, save a checkpoint, and take more steps; return the results of both."""
    case = CASES[name]
    model, optimizer = build(case)
    take_steps(model, optimizer, case.shapes.values(), range(STEPS))
    results = {"trained": contents(model, optimizer)}
    if name in FOR_ANY + FOR_AS_MANY:
        save(model, optimizer, folder / name)
        take_steps(model, optimizer, case.shapes.values(), range(STEPS, STEPS + MORE_STEPS))
        results["continued"] = contents(model, optimizer)
    return results


def resume(name, folder):
    """Load a checkpoint into other parameters with another learning rate, and take more steps."""
    case = CASES[name]
    model, optimizer = build(case, seed=1, lr=1.0)
    load(model, optimizer, folder / name)
    results = {"loaded": contents(model, optimizer)}
    take_steps(model, optimizer, case.shapes.values(), range(STEPS, STEPS + MORE_STEPS))
    return results | {"continued": contents(model, optimizer)}


def gather_and_scatter(name):
    """Gather a full state dict from all processes, and load it into another sharded model."""
    case = CASES[name]
    model, optimizer = build(case)
    take_steps(model, optimizer, case.shapes.values(), range(STEPS))
    options = StateDictOptions(full_state_dict=True)
    weights, state = get_state_dict(model, optimizer, options=options)
    gathered = {key: dict(values) for key, values in state["state"].items()}
    model, optimizer = build(case, seed=1, lr=1.0)
    set_state_dict(
        model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options
    )
    return {"gathered": gathered, "scattered": contents(model, optimizer)}


def share(batch: Tensor):
    """Return this process's part of a batch."""
    if not dist.is_initialized():
        return batch
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def learn_exactly(state_precision):
    """Train a linear model whose gradients are multiples of 1/8, so that their sum is exact.

    The loss is linear too, so that the gradients do not depend on the parameters.
    """
    generator = torch.Generator().manual_seed(0)
    model = linear = nn.Linear(128, 3)
    with torch.no_grad():
        for param in linear.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    if dist.is_initialized():
        model = DistributedDataParallel(linear)
    optimizer = PowerStep(linear.parameters(), lr=LR, **kept_in(state_precision))
    for _ in range(STEPS):
        x = torch.randint(-4, 5, (8, 128), generator=generator).float()
        y = torch.randint(-4, 5, (8, 3), generator=generator).float()
        optimizer.zero_grad()
        (model(share(x)) * share(y)).sum(dim=1).mean().backward()
        optimizer.step()
    return contents(linear, optimizer)["whole"]


def learn(way):
    """Train a network to imitate another; return its parameters and the losses."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 5))
    model = network = nn.Sequential(nn.Linear(16, 33), nn.Tanh(), nn.Linear(33, 5))
    if dist.is_initialized() and way == "fsdp":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for module in (network[0], network[2], network):
            fully_shard(module, mesh=mesh)
    elif dist.is_initialized():
        model = DistributedDataParallel(network)
    optimizer = PowerStep(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(20):
        x = torch.randn(32, 16, generator=generator)
        with torch.no_grad():
            y = teacher(x)
        optimizer.zero_grad()
        loss = (model(share(x)) - share(y)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    if dist.is_initialized():
        dist.all_reduce(losses)
        losses /= dist.get_world_size()
    params = {name: whole(param.detach()).clone() for name, param in network.named_parameters()}
    return {"losses": losses, "params": params}


def train(folder):
    """Run everything that both one and two processes run; save checkpoints in `folder`."""
    return {
        "given": {name: step_on_given_gradients(name, folder) for name in CASES},
        "exact": {kind: learn_exactly(kind) for kind in PRECISIONS},
        "learned": {way: learn(way) for way in ("ddp", "fsdp")},
    }


def train_and_resume(folder):
    """Train in one of two processes; load the checkpoints of one process and of two."""
    results = train(folder / "two")
    results["from one"] = {name: resume(name, folder / "one") for name in FOR_ANY}
    results["from two"] = {name: resume(name, folder / "two") for name in FOR_AS_MANY}
    results["gathered"] = {name: gather_and_scatter(name) for name in ("whole int8", "cut int8")}
    return results


def step_on_a_mesh(kind):
    """Update layers; with 4 processes, shard them by tensor parallelism and by fully_shard.

    A process has 64 elements of the first bias, and a whole block of every other parameter.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.Linear(128, 512), nn.Linear(64, 16, bias=False))
    shapes = [param.shape for param in model.parameters()]
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"*": ColwiseParallel()})
        fully_shard(model, mesh=mesh["data"])
    optimizer = PowerStep(model.parameters(), lr=LR, **kept_in(kind))
    take_steps(model, optimizer, shapes, range(STEPS))
    return contents(model, optimizer)["whole"]


def step_on_meshes(folder):
    return {kind: step_on_a_mesh(kind) for kind in PRECISIONS}


def work(rank, processes, task, folder):
    """Run a task as one of several processes, and save its results by rank."""
    warnings.filterwarnings("error", module="powerstep")
    torch.set_num_threads(1)
    folder = Path(folder)
    dist.init_process_group(
        "gloo",
        init_method=(folder / f"meeting-of-{processes}").as_uri(),
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    torch.save(task(folder), folder / f"{rank}-of-{processes}.pt")
    dist.destroy_process_group()


def spawn(processes, task, folder):
    """Run a task in several processes, and return the results of each."""
    torch.multiprocessing.spawn(work, (processes, task, str(folder)), nprocs=processes)
    return [
        torch.load(folder / f"{rank}-of-{processes}.pt", weights_only=True)
        for rank in range(processes)
    ]
