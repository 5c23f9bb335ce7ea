"""Optimizers that need more than `step()`: modes, as schedule-free ones, or a closure, as SAM."""

import torch


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (arXiv:2405.15682, equations 1 to 3).

    The gradient is taken at y = (1-β)·z + β·x, and the loss is evaluated at x, the running mean of
    z. As in its authors' library, the mode is kept in the groups, and it is not training at first.
    """

    def __init__(self, params, lr, beta=0.9, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "train_mode": False})

    @property
    def trains(self):
        return self.param_groups[0]["train_mode"]

    @trains.setter
    def trains(self, value):
        for group in self.param_groups:
            group["train_mode"] = value

    @torch.no_grad()
    def train(self):
        if not self.trains:
            self._each(lambda param, z, beta: param.lerp_(z, 1 - beta))  # x to y
        self.trains = True

    @torch.no_grad()
    def eval(self):
        if self.trains:
            self._each(lambda param, z, beta: param.lerp_(z, 1 - 1 / beta))  # y to x
        self.trains = False

    def _each(self, move):
        for group in self.param_groups:
            for param in group["params"]:
                if "z" in self.state[param]:
                    move(param, self.state[param]["z"], group["beta"])

    @torch.no_grad()
    def step(self, closure=None):
        assert self.trains, "not in train mode"
        for group in self.param_groups:
            group["k"] += 1
            c, beta, lr = 1 / group["k"], group["beta"], group["lr"]
            for param in group["params"]:
                z = self.state[param].setdefault("z", param.clone())
                x = param.lerp(z, 1 - 1 / beta)
                z.sub_(param.grad, alpha=lr)
                x.lerp_(z, c)
                param.copy_(x.lerp(z, 1 - beta))


class ScheduleFreeWithAttribute(ScheduleFree):
    """Keeps its mode in an attribute, which no state dict has, and is training at first."""

    trains = True


class Sam(torch.optim.Optimizer):
    """Sharpness-aware SGD (arXiv:2010.01412, equation 2): the gradient is taken uphill at ρ."""

    def __init__(self, params, lr, rho=0.05, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure=None):
        params = [param for group in self.param_groups for param in group["params"]]
        starts = [param.clone() for param in params]
        norm = torch.stack([param.grad.norm() for param in params]).norm()
        for param in params:
            param.add_(param.grad, alpha=(self.param_groups[0]["rho"] / norm).item())
        loss = closure()
        for param, start in zip(params, starts, strict=True):
            param.copy_(start - self.param_groups[0]["lr"] * param.grad)
        return loss
