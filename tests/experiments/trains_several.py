"""What each process does in test_runs_on_several_processes: train some runs, one after another.

Started by torchrun with a file of JSON: a list of a run's spec, how it is split, and its folder.
"""

import json
import sys
from pathlib import Path

import torch

from experiments.corpus.batches import TokenBatches
from experiments.plan.spec import RunSpec
from experiments.settings import ConfigError
from experiments.training.parallel import Parallel
from experiments.training.train import train


class PowerCutError(RuntimeError):
    """Ends a run in the middle."""


def cut_at(step):
    """Have runs end before a step, counted from 0; return a function that undoes it."""
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
