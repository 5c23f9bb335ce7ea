"""Make sharded models, as each process of test_initial_weights_follow_from_seed_and_name does.

torchrun starts it with the path of a JSON file: a list of models, each with its settings, its seed
and its tensor_parallel. The first process prints the digest of each model's weights and its loss.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.distributed.device_mesh import init_device_mesh

from experiments.models.build import build_model, model_on_meta
from experiments.models.initial import materialise
from experiments.models.settings import ModelSettings
from experiments.training.sharding import full_tensor, shard


def digest_of(model):
    """Return the digest of the names and the values of a model's full parameters and buffers."""
    hashed = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        hashed.update(name.encode())
        hashed.update(full_tensor(tensor.detach()).numpy().tobytes())
    return hashed.hexdigest()


@torch.no_grad()
def loss_of(model):
    tokens = torch.arange(32).reshape(2, 16)
    return model(tokens, tokens.flip(1)).item()


def main(path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = []
    for job in json.loads(Path(path).read_text()):
        settings = TypeAdapter(ModelSettings).validate_python(job["model"])
        split = job["tensor_parallel"]
        names = ("data_parallel", "tensor_parallel")
        mesh = init_device_mesh(
            "cpu", (dist.get_world_size() // split, split), mesh_dim_names=names
        )
        model = model_on_meta(settings)
        shard(model, mesh)
        held = [param.to_local() for param in model.parameters()]
        assert all(part.is_meta for part in held)  # nothing has taken memory
        materialise(model, job["seed"])
        cut = build_model(settings, job["seed"])  # torch itself cuts the shards of a whole model
        shard(cut, mesh)
        for (name, ours), (other, theirs) in zip(
            model.named_parameters(), cut.named_parameters(), strict=True
        ):
            assert name == other
            assert ours.placements == theirs.placements
            assert torch.equal(ours.to_local(), theirs.to_local()), name
        results.append({"digest": digest_of(model), "loss": loss_of(model)})
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
