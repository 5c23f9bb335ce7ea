"""Train runs one after another, as each process of test_runs_on_several_processes does.

torchrun starts it with the path of a JSON file: a list of runs, each with its spec, its corpus, its
folder, its parallel settings and, optionally, the step at which it is interrupted.
"""

import json
import sys
from pathlib import Path

import torch

from experiments.corpus.batches import TokenBatches
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError
from experiments.training.lightning_import import import_lightning
from experiments.training.parallel import Parallel

import_lightning()
from experiments.training.train import train  # noqa: E402


class PowerCutError(RuntimeError):
    """Interrupts a run."""


def cut_at(step):
    """Interrupt runs before a step, counted from 0; return a function that undoes this."""
    whole_batch = TokenBatches.train

    def train_batch(self, seed, at, batch_size):
        if at == step:
            raise PowerCutError
        return whole_batch(self, seed, at, batch_size)

    TokenBatches.train = train_batch
    return lambda: setattr(TokenBatches, "train", whole_batch)


def main(path):
    torch.set_num_threads(1)
    for job in json.loads(Path(path).read_text()):
        restore = cut_at(job.get("cut_at"))
        try:
            train(
                RunSpec.model_validate(job["spec"]),
                Path(job["corpus"]),
                Path(job["folder"]),
                Parallel(**job["parallel"]),
            )
        except PowerCutError:
            pass
        except ConfigError as error:
            rank = torch.distributed.get_rank()
            Path(job["folder"], f"refused_{rank}").write_text(str(error))
        finally:
            restore()


if __name__ == "__main__":
    main(sys.argv[1])
