"""Measure the memory of each process that builds and trains a sharded model: `make bench-sharding`.

Gloo processes shard a GPT-2 of 200M parameters on the CPU, by FSDP2. They build it as training
does, or the whole model first. Then they take two steps of AdamW.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tabulate import tabulate
from torch.distributed.device_mesh import init_device_mesh

from experiments.memory import (
    RETURN_FREED_MEMORY,
    peak_resident_bytes,
    reset_peak,
    resident_bytes,
)
from experiments.models.build import build_model, model_on_meta
from experiments.models.initial import materialise
from experiments.models.settings import GPT2Settings
from experiments.training.sharding import shard

ROOT = Path(__file__).parents[1]
MODEL = GPT2Settings(
    family="gpt2", layers=12, width=1024, heads=16, context=128, vocab_size=50304
)  # fmt: skip
STEPS = 2
HEADERS = ["processes", "built as", "shards", "peak of building", "peak of training"]


def measure(way: str) -> tuple[int, int, int]:
    """Return the bytes of this process's shards, and its peaks of building and of training.

    The memory that the process had before is not counted.
    """
    mesh = init_device_mesh(
        "cpu", (dist.get_world_size(), 1), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    reset_peak()
    before = resident_bytes()
    model = build_model(MODEL) if way == "whole" else model_on_meta(MODEL)
    shard(model, mesh)
    if way == "shards":
        materialise(model, seed=0)
    built = peak_resident_bytes() - before
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.arange(MODEL.context + 1)[None]
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    held = sum(param.to_local().nbytes for param in model.parameters())
    return held, built, peak_resident_bytes() - before


def work(way: str) -> None:
    """Measure as one of several processes; the first one prints the largest numbers of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    everyone: list[tuple[int, int, int]] = [(0, 0, 0)] * dist.get_world_size()
    dist.all_gather_object(everyone, measure(way))
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps([max(each) for each in zip(*everyone, strict=True)]))
    dist.destroy_process_group()


def main() -> None:
    """Print a table of the largest memory of a process, in MiB."""
    rows = []
    for processes in (1, 2, 4):
        for way in ("whole", "shards"):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes), "-m", "tests.measure_sharding", way]
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | RETURN_FREED_MEMORY,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            if not done.stdout:  # gloo may abort a process that has printed, as it exits
                sys.exit(f"{processes} processes, {way}: exit code {done.returncode}")
            rows.append([processes, way, *(size / 2**20 for size in json.loads(done.stdout))])
    count = sum(param.numel() for param in model_on_meta(MODEL).parameters())
    table = tabulate(rows, HEADERS, tablefmt="github", floatfmt=".0f")
    sys.stdout.write(f"{count:,} parameters in fp32; MiB of the largest process\n\n{table}\n")


if __name__ == "__main__":
    work(sys.argv[1]) if sys.argv[1:] else main()
