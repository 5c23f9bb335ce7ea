"""Optimizers with one fault each, which `python -m experiments check` must find."""

import os
import random
import signal

import torch
import torch.distributed as dist


class Plain(torch.optim.SGD):
    """Gradient descent with momentum, without a fault."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr, momentum=0.9, weight_decay=weight_decay)

    def params(self):
        return [param for group in self.param_groups for param in group["params"]]


class NeverLearns(Plain):
    def step(self, closure=None):
        for param in self.params():
            self.state[param]["step"] = torch.tensor(1)


class ChangesGradients(Plain):
    def step(self, closure=None):
        for param in self.params():
            param.grad.mul_(0.5)
        super().step()


class ForgetsItsState(Plain):
    def state_dict(self):
        return super().state_dict() | {"state": {}}


class DrawsItsOwnNumbers(Plain):
    """Draws from another generator than torch's, which no seed sets."""

    def step(self, closure=None):
        for param in self.params():
            param.grad = param.grad * random.SystemRandom().uniform(0.5, 1.5)
        super().step()


class Drifts(Plain):
    """Evaluation moves its weights, and training does not move them back."""

    def train(self):
        pass

    def eval(self):
        with torch.no_grad():
            for param in self.params():
                param.mul_(0.5)


class EndsItsProcess(Plain):
    def step(self, closure=None):
        os.kill(os.getpid(), signal.SIGKILL)


class RefusesNaN(Plain):
    def step(self, closure=None):
        if any(param.grad.isnan().any() for param in self.params()):
            raise ValueError("not a number")
        super().step()


class TakesItsOwnWay(Plain):
    """Each process takes steps of another length, as one that measures its own gradient."""

    def step(self, closure=None):
        super().step()
        if dist.is_initialized() and dist.get_rank():
            super().step()


class TakesShardsForWholes(Plain):
    """Normalises by the norm of its own shard."""

    def step(self, closure=None):
        with torch.no_grad():
            for param in self.params():
                own = getattr(param, "_local_tensor", param)
                grad = getattr(param.grad, "_local_tensor", param.grad)
                own.sub_(grad / grad.norm().clamp(min=1e-8), alpha=self.param_groups[0]["lr"])
