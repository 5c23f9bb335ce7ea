"""Optimizers that do what runs on a cluster may."""

import time

import torch


class Slow(torch.optim.AdamW):
    """Takes its time and no processor, so that a run can be interrupted where a test wants it."""

    def __init__(self, params, lr, weight_decay=0.0, seconds=0.05):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.seconds = seconds

    def step(self, closure=None):
        time.sleep(self.seconds)
        return super().step(closure)


class Crashing(torch.optim.SGD):
    """Fails at its third step, as a bug in somebody's optimizer would."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise RuntimeError("this optimizer has a bug")
        return super().step(closure)
