"""What all optimizers of this library share: everything but the formula."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from powerstep.pieces import Piece, piece_limit
from powerstep.state import PRECISIONS, local, local_grad, new_part, storage

# What each argument must be: a test, and the words for it.
Rule = tuple[Callable[[Any], bool], str]


def at_least(bound: float) -> Rule:
    """Accept numbers from `bound` on."""
    return lambda value: bool(value >= bound), f"at least {bound}"


def between(low: float, high: float) -> Rule:
    """Accept numbers in [low, high]."""
    return lambda value: low <= value <= high, f"in [{low}, {high}]"


def learning_rate() -> Rule:
    """Accept numbers and one-element tensors from 0 on."""
    return (
        lambda value: (not isinstance(value, Tensor) or value.numel() == 1) and bool(value >= 0),
        "a number or a tensor of one element, at least 0",
    )


def betas() -> Rule:
    """Accept two numbers, each in [0, 1)."""
    return (
        lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
        "two numbers in [0, 1)",
    )


def one_of(*values: Any) -> Rule:
    """Accept these values alone."""
    return lambda value: value in values, f"one of {', '.join(map(str, values))}"


class ElementwiseOptimizer(Optimizer):
    """Base of optimizers that update each element from its own gradient and state alone.

    A subclass names its buffers, gives a rule for each of its arguments and defines `_update`.
    This class keeps the buffers in the precision asked for, does the arithmetic in fp32 whatever
    the dtype of the parameters, works on the local shards of DTensors, and leaves gradients as they
    are. Of fp64 parameters, θ itself is updated in fp64.
    """

    buffers: ClassVar[tuple[str, ...]]
    rules: ClassVar[dict[str, Rule]]
    counts_steps: ClassVar[bool] = False
    # Values of arguments that an older state_dict or pickle does not have.
    added: ClassVar[dict[str, Any]] = {}

    _common_rules: ClassVar[dict[str, Rule]] = {
        "lr": learning_rate(),
        "weight_decay": at_least(0),
        "state_precision": one_of(*PRECISIONS),
        "block_size": at_least(1),
        "maximize": one_of(True, False),
        "stochastic_rounding": one_of(True, False),
    }
    # Every group has these; which of them are arguments too is a subclass's choice.
    _common_defaults: ClassVar[dict[str, Any]] = {
        "state_precision": "fp32",
        "block_size": 128,
        "maximize": False,
        "stochastic_rounding": False,
    }

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        defaults = self._common_defaults | defaults
        self._check(defaults)
        super().__init__(params, defaults)

    def _update(
        self,
        theta: Tensor,
        grad: Tensor,
        buffers: Sequence[Tensor],
        group: dict[str, Any],
        step: int,
    ) -> None:
        """Take one step on tensors of one shape, in place.

        Args:
            theta: the parameter or a piece of it, fp32 or fp64.
            grad: its gradient, fp32; its sign is changed already where the loss is maximized.
            buffers: fp32, in the order of the class attribute `buffers`.
            group: the parameter group, with the values of all arguments.
            step: counts from 1.
        """
        raise NotImplementedError

    def _start(self, param: Tensor, name: str, group: dict[str, Any]) -> Tensor | None:
        """Return what a buffer starts from, or None for zeros."""
        return None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its own values are held to the same rules.

        Raises:
            ValueError: a value breaks a rule, or a parameter is complex.
        """
        self._check(self.defaults | param_group)
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.is_complex():
                self.param_groups.pop()
                raise ValueError(f"{type(self).__name__} has no complex parameters: view_as_real")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in (self._common_defaults | self.added).items():
                group.setdefault(name, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients.

        Returns:
            What `closure` returned, or None without one.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            for param in params:
                if param.grad.layout != torch.strided:
                    raise RuntimeError(f"{type(self).__name__} does not take sparse gradients")
                if not self.state[param]:
                    self._new_state(param, group)
            if isinstance(group["lr"], Tensor):  # of one element, in any number of dimensions
                group = group | {"lr": group["lr"].squeeze()}
            self._step_group(params, group)
        return loss

    def _step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        for param in params:
            self._step_param(param, group)

    def _step_param(self, param: Tensor, group: dict[str, Any]) -> None:
        """Take the step of one parameter, piece by piece."""
        step = self._count(param)
        for piece in self._pieces(param, group):
            work = piece.load()
            self._update(work.theta, work.grad, work.buffers, group, step)
            piece.store(work)

    def _count(self, param: Tensor) -> int:
        """Return which step on `param` this is, and remember it."""
        if not self.counts_steps:
            return 0
        # A tensor, as torch's own optimizers have it: checkpoints carry it as they carry the rest.
        self.state[param]["step"] += 1
        return int(self.state[param]["step"])

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> None:
        keep = storage(group["state_precision"], group["block_size"])
        if self.counts_steps:
            self.state[param]["step"] = torch.tensor(0.0)
        for name in self.buffers:
            parts = {part.suffix: new_part(param, part) for part in keep.parts}
            start = self._start(param, name, group)
            if start is not None:
                own = local(start).reshape(-1)
                stored = [
                    part.stored(local(parts[part.suffix]), own.numel()) for part in keep.parts
                ]
                keep.store(stored, own)
            for suffix, part in parts.items():
                self.state[param][name + suffix] = part

    def _pieces(
        self, param: Tensor, group: dict[str, Any], limit: int | None = None
    ) -> Iterator[Piece]:
        """Cut a parameter, its gradient and its state into flat views.

        What cannot be viewed flat comes whole, and what is empty not at all.

        Args:
            param: with a gradient and state.
            group: its parameter group.
            limit: elements a piece, or None for `piece_limit` of the device.
        """
        # Detached: a kernel compiled for plain tensors is compiled anew for those with a gradient.
        own, grad = local(param).detach(), local_grad(param).detach()
        numel = own.numel()
        keep = storage(group["state_precision"], group["block_size"])
        state = self.state[param]
        stored = [
            [part.stored(local(state[name + part.suffix]), numel) for part in keep.parts]
            for name in self.buffers
        ]
        if not (own.is_contiguous() and grad.is_contiguous()):
            yield Piece(own, grad, stored, keep, group)
            return
        whole = Piece(own.view(-1), grad.view(-1), stored, keep, group)
        multiple = 2 * group["block_size"]  # whole blocks, and whole bytes of 4-bit codes
        size = max(1, (limit or piece_limit(own.device)) // multiple) * multiple
        for start in range(0, numel, size):
            yield whole.cut(start, min(start + size, numel))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, each tensor in the dtype it was saved in.

        `Optimizer.load_state_dict` casts state to the dtype of its parameter, which would turn int8
        codes into floats and round an fp32 momentum to bf16 (pytorch/pytorch#43706).
        """
        loaded: dict[str, Any] = {}  # what the caller's own hooks made of `state_dict`
        before = self.register_load_state_dict_pre_hook(
            lambda _, given: loaded.update(given)  # returns None: leaves it as it is
        )
        after = self.register_load_state_dict_post_hook(
            lambda _: self._restore(loaded), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _restore(self, state_dict: dict[str, Any]) -> None:
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved_ids, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                self.state[param][name] = (
                    value.to(param.device, copy=True).contiguous()
                    if isinstance(value, Tensor)
                    else value
                )

    @classmethod
    def _check(cls, values: dict[str, Any]) -> None:
        """Refuse values that break a rule."""
        for name, (accepts, words) in (cls._common_rules | cls.rules).items():
            if not accepts(values[name]):
                raise ValueError(f"{name} is {values[name]!r}, but it must be {words}")
