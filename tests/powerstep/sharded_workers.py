"""The training that test_sharded_training has done by one process and by two."""

import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from powerstep import PowerStep
from powerstep.baselines import AdamS, NaiveAdamWInt8, PbSGDM, SignSGD, Stacey

PROCESSES = 2
STEPS = 6
MORE_STEPS = 4  # after a checkpoint
PRECISIONS = ("fp32", "bf16", "int8", "int4")

# Each process's shard is a whole number of blocks of 128: halves; 3 rows and 2; 1 row and none.
WHOLE_BLOCKS = {"even": (4, 128), "uneven": (5, 256), "one_row": (1, 128), "vector": (256,)}
# Rows shorter than a block, of which a shard has whole blocks all the same.
ROWS_OF_HALF_A_BLOCK = {"rows": (4, 64), "filter": (8, 4, 4, 4)}
# Blocks that one process would have run across the edge between two shards. Of 130 elements both
# one process and two have two blocks.
CUT_BLOCKS = {"weight": (5, 24), "bias": (5,), "one_row": (1, 7), "vector": (130,)}


@dataclass(frozen=True)
class Case:
    """An optimizer and the parameters that it steps on with given gradients."""

    shapes: dict[str, tuple[int, ...]]
    make: type[torch.optim.Optimizer] = PowerStep
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    columns: bool = False  # sharded by columns, as tensor parallel does, and not by fully_shard


def precision(name, **arguments):
    return {"weight_decay": 0.1, "state_precision": name} | arguments


CASES = (
    {f"whole {name}": Case(WHOLE_BLOCKS, arguments=precision(name)) for name in PRECISIONS}
    | {f"rows {name}": Case(ROWS_OF_HALF_A_BLOCK, arguments=precision(name)) for name in PRECISIONS}
    | {f"cut {name}": Case(CUT_BLOCKS, arguments=precision(name)) for name in PRECISIONS}
    | {
        f"linear {name}": Case(CUT_BLOCKS, arguments=precision(name, beta=1.0, weight_decay=0.0))
        for name in ("int8", "int4")
    }
    | {
        f"foreach {name}": Case(WHOLE_BLOCKS, arguments=precision(name, foreach=True))
        for name in PRECISIONS
    }
    | {
        f"columns {name}": Case({"weight": (6, 256)}, arguments=precision(name), columns=True)
        for name in PRECISIONS
    }
    | {
        "bf16 parameters": Case(
            WHOLE_BLOCKS, arguments=precision("fp32", lr=0.1), dtype=torch.bfloat16
        ),
        "AdamS": Case(WHOLE_BLOCKS, AdamS, {"weight_decay": 0.1}),
        "NaiveAdamWInt8": Case(WHOLE_BLOCKS, NaiveAdamWInt8, {"weight_decay": 0.1}),
        "PbSGDM": Case(WHOLE_BLOCKS, PbSGDM, {"weight_decay": 0.1}),
        "SignSGD": Case(WHOLE_BLOCKS, SignSGD, {"weight_decay": 0.1}),
        "Stacey": Case(WHOLE_BLOCKS, Stacey, {"weight_decay": 0.1}),
    }
)
# Those whose blocks any number of processes may load.
RESHARDED = [
    *(f"{kind} {name}" for kind in ("whole", "rows") for name in PRECISIONS),
    "bf16 parameters",
    "AdamS",
    "Stacey",
]


class Parameters(nn.Module):
    def __init__(self, case, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in case.shapes.items():
            start = torch.randn(shape, generator=generator)
            self.register_parameter(name, nn.Parameter(start.to(case.dtype)))


def make(case, seed=0, **arguments):
    """Return parameters, sharded where there are two processes, and an optimizer of them."""
    model = Parameters(case, seed)
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (PROCESSES,))
        if case.columns:
            for name, param in list(model.named_parameters()):
                shard = nn.Parameter(distribute_tensor(param.detach(), mesh, [Shard(1)]))
                model.register_parameter(name, shard)
        else:
            fully_shard(model, mesh=mesh)
    return model, case.make(model.parameters(), **{"lr": 1e-2} | case.arguments | arguments)


def gradient(shape, step, index):
    """Return a gradient of mixed sizes, some of it exactly zero."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    grad = torch.randn(shape, generator=generator)
    grad *= 10.0 ** torch.empty(shape).uniform_(-6, 2, generator=generator)
    grad[torch.rand(shape, generator=generator) < 0.1] = 0
    return grad


def take_steps(model, optimizer, first, last):
    """Step with the same gradients however many processes there are."""
    for step in range(first, last):
        for index, param in enumerate(model.parameters()):
            grad = gradient(param.shape, step, index).to(param.dtype)
            param.grad = grad if not isinstance(param, DTensor) else placed(grad, param)
        optimizer.step()


def placed(grad, param):
    if param.placements == (Shard(1),):
        # As backward leaves it where each process has seen a part of the batch: the sum is meant.
        part = grad.clone() if dist.get_rank() else torch.zeros_like(grad)
        return DTensor.from_local(part, param.device_mesh, [Partial()], run_check=False)
    return distribute_tensor(grad, param.device_mesh, param.placements)


def result(model, optimizer):
    """Return parameters and state, whole, and of them what this process holds."""
    tensors = {
        name: {"param": param.detach()} | optimizer.state[param]
        for name, param in model.named_parameters()
    }
    return {
        kind: {
            name: {key: of(tensor).clone() for key, tensor in values.items()}
            for name, values in tensors.items()
        }
        for kind, of in (("whole", whole), ("own", own))
    }


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def save(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"weights": weights, "state": state}, checkpoint_id=folder)


def load(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"weights": weights, "state": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)


def resume(case, folder):
    """Return what a checkpoint gives a model and optimizer made otherwise, and further steps."""
    model, optimizer = make(case, seed=1, lr=1.0)
    load(model, optimizer, folder)
    loaded = result(model, optimizer)
    take_steps(model, optimizer, STEPS, STEPS + MORE_STEPS)
    return {"loaded": loaded, "resumed": result(model, optimizer)}


def given_gradients(case, checkpoint):
    """Return what comes of given gradients, before and after saving a checkpoint."""
    model, optimizer = make(case)
    take_steps(model, optimizer, 0, STEPS)
    trained = result(model, optimizer)
    save(model, optimizer, checkpoint)
    take_steps(model, optimizer, STEPS, STEPS + MORE_STEPS)
    return {"trained": trained, "continued": result(model, optimizer)}


def share(batch: Tensor):
    return batch.chunk(PROCESSES)[dist.get_rank()] if dist.is_initialized() else batch


def exact_data_parallel(state_precision):
    """Train a linear model whose gradients are multiples of 1/8 that no order of adding rounds."""
    model = linear = nn.Linear(128, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in linear.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    if dist.is_initialized():
        model = DistributedDataParallel(linear)
    optimizer = PowerStep(linear.parameters(), **precision(state_precision, lr=1e-2))
    for _ in range(STEPS):
        x = torch.randint(-4, 5, (8, 128), generator=generator).float()
        y = torch.randint(-4, 5, (8, 3), generator=generator).float()
        optimizer.zero_grad()
        (model(share(x)) * share(y)).sum(dim=1).mean().backward()
        optimizer.step()
    return result(linear, optimizer)["whole"]


def learning(kind, state_precision):
    """Train a network to follow another, and return its parameters and the losses."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 5))
    network = nn.Sequential(nn.Linear(16, 33), nn.Tanh(), nn.Linear(33, 5))
    model = network
    if dist.is_initialized() and kind == "fsdp":
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for layer in (network[0], network[2], network):
            fully_shard(layer, mesh=mesh)
    elif dist.is_initialized():
        model = DistributedDataParallel(network)
    optimizer = PowerStep(network.parameters(), lr=3e-3, state_precision=state_precision)
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
        losses /= PROCESSES
    return {"losses": losses} | {
        name: whole(param.detach()) for name, param in network.named_parameters()
    }


def train(folder):
    """Do all the training, as the only process or as one of two."""
    return (
        {name: given_gradients(case, folder / name) for name, case in CASES.items()}
        | {f"exact ddp {name}": exact_data_parallel(name) for name in PRECISIONS}
        | {f"learning ddp {name}": learning("ddp", name) for name in ("fp32", "int8")}
        | {"learning fsdp fp32": learning("fsdp", "fp32")}
    )


def work(rank, folder):
    """Train as one of two processes, load checkpoints, and save the results by rank."""
    warnings.filterwarnings("error", module="powerstep")
    torch.set_num_threads(1)
    folder = Path(folder)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    results = train(folder / "two")
    results["from one"] = {name: resume(CASES[name], folder / "one" / name) for name in RESHARDED}
    results["from two"] = {
        name: resume(case, folder / "two" / name)
        for name, case in CASES.items()
        if case.shapes is CUT_BLOCKS
    }
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()
