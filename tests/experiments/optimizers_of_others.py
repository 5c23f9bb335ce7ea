"""Optimizers that other people might write: unusual ones that torch allows, and broken ones."""

import abc
import os
from fractions import Fraction

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

CLOSURES = []


class _Plain(torch.optim.Optimizer):
    """Gradient descent; a subclass scales the step and may keep state."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "steps": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_(param.grad * self.scale(param, group["steps"]), alpha=group["lr"])


class ReadsNumbers(_Plain):
    """Reads a number from a tensor, as Prodigy, D-Adaptation and StableAdamW do."""

    def scale(self, param, steps):
        return 1 / (1 + param.grad.norm().item())


class StateLater(_Plain):
    """Creates its state in the third step, as Lookahead does."""

    def scale(self, param, steps):
        if steps % 3 == 0:
            self.state[param].setdefault("slow", param.clone())
        return 1 + self.state[param].get("slow", param.new_zeros(1)).abs().mean()


class StateUnderNames(_Plain):
    """Keeps state under strings instead of parameters, which Optimizer.state_dict allows."""

    def scale(self, param, steps):
        kept = self.state["global"]
        kept["norm"] = 0.9 * kept.get("norm", torch.tensor(1.0)) + param.grad.norm()
        self.state["count"] = steps
        return 1 / kept["norm"]


class OddState(_Plain):
    """Keeps types of values and dtypes that torch's own loader changes or refuses."""

    def scale(self, param, steps):
        state = self.state[param]
        if not state:
            state["mode"], state["nothing"] = "half", None
            state["calls"] = np.zeros(2)
            state["number"] = np.float64(1.0)
            state["mask"] = torch.arange(param.numel()).view_as(param) % 2 == 0
            state["count"] = torch.tensor(0)
            state["fine"] = torch.zeros_like(param, dtype=torch.float64)
            state["nested"] = {"list": [torch.zeros_like(param), ("x", torch.tensor(1))]}
        state["calls"] += 1
        state["count"] += 1
        state["fine"].mul_(0.9).add_(param.grad)
        state["nested"]["list"][0].add_(param.grad)
        assert state["mode"] == "half"
        assert state["count"].dtype == torch.int64
        scale = 1 + state["fine"].float() + state["nested"]["list"][0]
        scale[state["mask"]] *= 0.5 / state["calls"][1]
        return scale


class Random(_Plain):
    """Draws random numbers in each step, as stochastic rounding does."""

    def scale(self, param, steps):
        return torch.rand_like(param)


class OwnStateDict(_Plain):
    """Adds an attribute of its own to its state dict."""

    calls = 0

    def scale(self, param, steps):
        self.calls += 1
        return 1 / (1 + self.calls % 7)

    def state_dict(self):
        return {"calls": self.calls} | super().state_dict()

    def load_state_dict(self, state_dict):
        self.calls = state_dict["calls"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "calls"})


class OtherStateDict(OwnStateDict):
    """Its state dict has a layout of its own."""

    def state_dict(self):
        return {"mine": super().state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict["mine"])


class TensorLr(torch.optim.AdamW):
    """Has a tensor as lr, like torchao.optim.AdamW8bit."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, torch.tensor(lr), weight_decay=weight_decay, foreach=False)


class NotesClosures(_Plain):
    """Records the closure that each step gets; an optimizer such as SAM needs one."""

    def step(self, closure=None):
        CLOSURES.append(closure)
        return super().step(closure)

    def scale(self, param, steps):
        return 1


class NeedsNoClosure(torch.optim.SGD):
    def step(self):
        return super().step()


class NeedsClosure(torch.optim.SGD):
    def step(self, *, closure):
        return super().step(closure)


class Sam(torch.optim.SGD):
    def step(self, closure=None):
        assert closure is not None, "SAM needs a closure"


class RefusesNaN(_Plain):
    """Raises if a gradient is NaN, as optimizers that invert matrices do."""

    def scale(self, param, steps):
        if param.grad.isnan().any():
            raise ValueError("the gradient is not finite")
        return 1


class ReadsParameters(_Plain):
    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr, weight_decay)
        self.size = sum(p.abs().sum().item() for g in self.param_groups for p in g["params"])

    def scale(self, param, steps):
        return 1


class NeedsModel(torch.optim.SGD):
    def step(self, model):
        return super().step()


class TakesAnything(torch.optim.SGD):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class WantsModel(torch.optim.SGD):
    def __init__(self, model, lr, weight_decay=0.0):
        super().__init__(model.parameters(), lr)


class WantsGpu(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay=0.0):
        raise RuntimeError("needs a GPU,\nbut there is none")


class Leaves(torch.optim.SGD):
    def __init__(self, params, lr, weight_decay=0.0):
        raise SystemExit("no licence")


class Abstract(_Plain, abc.ABC):
    @abc.abstractmethod
    def scale(self, param, steps):
        pass


class NoStep(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, {"lr": lr})


class NoLr(_Plain):
    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr)
        for group in self.param_groups:
            del group["lr"]


class Empties(torch.optim.SGD):
    def __init__(self, params, values, lr, weight_decay=0.0):
        values.clear()
        super().__init__(params, lr)


class NotAnOptimizer:
    def __init__(self, params, lr, weight_decay=0.0):
        pass

    def step(self):
        pass


def function(params, lr, weight_decay=0.0):
    return torch.optim.SGD(params, lr)


class _WithMomentum(torch.optim.SGD):
    """Gradient descent with momentum; each subclass has one fault."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, lr, momentum=0.9, weight_decay=weight_decay)

    def params(self):
        return [param for group in self.param_groups for param in group["params"]]


class ForgetsItsMomentum(_WithMomentum):
    """Evaluation leaves its weights alone, but training goes on as from the start."""

    def train(self):
        pass

    def eval(self):
        self.state.clear()


class KeepsAnObject(_WithMomentum):
    """Keeps an object of a class that torch.load(weights_only=True) refuses."""

    def step(self, closure=None):
        super().step()
        for param in self.params():
            self.state[param]["share"] = Fraction(1, 2)


class LeavesInItsStep(_WithMomentum):
    def step(self, closure=None):
        raise SystemExit("no licence")


class RaisesInOneProcess(_WithMomentum):
    """Only the second process raises; the first one loses its partner."""

    def step(self, closure=None):
        super().step()
        if dist.is_initialized() and dist.get_rank():
            raise ValueError("not the first")


class EndsItsProcessOnNaN(_WithMomentum):
    def step(self, closure=None):
        if any(param.grad.isnan().any() for param in self.params()):
            os.kill(os.getpid(), 9)
        super().step()


class DivergesAtLargeRates(torch.optim.AdamW):
    """Learns at lr 0.001, but raises where the rate is larger."""

    def step(self, closure=None):
        if self.param_groups[0]["lr"] > 5e-3:
            raise FloatingPointError("diverged")
        super().step()


class Wrapped(Tensor):
    """A tensor that reports fp32 but stores codes and a scale, like torchao's OptimState8bit."""

    @staticmethod
    def __new__(cls, codes, scale):
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(func)
