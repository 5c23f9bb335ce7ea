"""PowerStep as a `torch.optim.Optimizer`."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from powerstep.functional import powerstep_
from powerstep.quantization import dequantize_blockwise, quantize_blockwise

STATE_PRECISIONS = ("fp32", "int8")


class PowerStep(Optimizer):
    """PowerStep (arXiv:2605.10335, Algorithm 1; section 4 for the int8 state).

    Keeps one buffer a parameter, against the two of Adam: 4 bytes a parameter in fp32 and
    1 + 4/block_size in int8. Arithmetic is fp32 whatever the dtype of the parameters.

    Args:
        params: parameters or parameter groups, as for every torch optimizer.
        lr: η, the learning rate; at least 0.
        gamma: γ, the momentum's decay, in [0, 1].
        beta: β, the exponent of the signed power transform, in [0, 1]. 0 is sign momentum,
            1 is SGD with momentum.
        weight_decay: λ, decoupled; at least 0.
        state_precision: "fp32", or "int8" to keep the momentum blockwise quantised between steps.
        block_size: elements that share one scale of an int8 state; at least 1.

    Raises:
        ValueError: an argument lies outside the range given here.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        gamma: float = 0.9,
        beta: float = 0.1,
        weight_decay: float = 0.0,
        *,
        state_precision: Literal["fp32", "int8"] = "fp32",
        block_size: int = 128,
    ) -> None:
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "beta": beta,
            "weight_decay": weight_decay,
            "state_precision": state_precision,
            "block_size": block_size,
        }
        _check(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its own values are held to the same ranges."""
        _check(self.defaults | param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients.

        Returns:
            What `closure` returned, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step_param(param, group)
        return loss

    def _step_param(self, param: Tensor, group: dict[str, Any]) -> None:
        momentum = self._load_momentum(param, group)
        powerstep_(
            param,
            param.grad,
            momentum,
            lr=group["lr"],
            gamma=group["gamma"],
            beta=group["beta"],
            weight_decay=group["weight_decay"],
        )
        # Quantised only now: the update was taken from the full-precision momentum (section 4).
        self._store_momentum(param, momentum, group)

    def _load_momentum(self, param: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[param]
        if not state:
            return torch.zeros_like(param, dtype=torch.float32)
        if group["state_precision"] == "fp32":
            return state["momentum"]
        return dequantize_blockwise(
            state["momentum_codes"], state["momentum_scales"], group["block_size"]
        )

    def _store_momentum(self, param: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
        if group["state_precision"] == "fp32":
            self.state[param]["momentum"] = momentum
        else:
            codes, scales = quantize_blockwise(momentum, group["block_size"])
            self.state[param].update(momentum_codes=codes, momentum_scales=scales)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, each tensor in the dtype it was saved in.

        `Optimizer.load_state_dict` casts state to the dtype of its parameter, which would turn int8
        codes into floats and round an fp32 momentum to bf16 (pytorch/pytorch#43706).
        """
        super().load_state_dict(state_dict)
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved_ids, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                self.state[param][name] = value.to(param.device, copy=True)


def _check(values: dict[str, Any]) -> None:
    """Refuse values outside the ranges that the class documents."""
    accepted = {
        "lr": (values["lr"] >= 0, "at least 0"),
        "gamma": (0 <= values["gamma"] <= 1, "in [0, 1]"),
        "beta": (0 <= values["beta"] <= 1, "in [0, 1]"),
        "weight_decay": (values["weight_decay"] >= 0, "at least 0"),
        "state_precision": (
            values["state_precision"] in STATE_PRECISIONS,
            f"one of {', '.join(STATE_PRECISIONS)}",
        ),
        "block_size": (values["block_size"] >= 1, "at least 1"),
    }
    for name, (is_accepted, accepts) in accepted.items():
        if not is_accepted:
            raise ValueError(f"{name} is {values[name]!r}, but it must be {accepts}")
