"""A slow and a crashing optimizer, for tests of interrupted and failed runs."""

import time

import torch


class Slow(torch.optim.AdamW):
    """AdamW that sleeps in each step, so that a test can interrupt the run."""

    def __init__(self, params, lr, weight_decay=0.0, seconds=0.05):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.seconds = seconds

    def step(self, closure=None):
        time.sleep(self.seconds)
        return super().step(closure)


class Crashing(torch.optim.SGD):
    """SGD that fails in its third step, as if it had a bug."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise RuntimeError("this optimizer has a bug")
        return super().step(closure)
