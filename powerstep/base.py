"""What all optimizers of this library share: everything but the formula."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from powerstep.dtensors import local, local_grad
from powerstep.loading import check_state, converted, matches
from powerstep.pieces import Piece, Work, piece_limit
from powerstep.state import StateLayout, new_part, storage_for
from powerstep.validation import ValidatedOptimizer


class ElementwiseOptimizer(ValidatedOptimizer):
    """Base of optimizers that update each element from its own gradient and state alone.

    A subclass names its buffers, gives a rule for each of its arguments and defines `_update`.
    This class keeps the buffers in the precision asked for, does the arithmetic in fp32 whatever
    the dtype of the parameters, works on the local shards of DTensors, and leaves gradients as they
    are. Of fp64 parameters, θ itself is updated in fp64.
    """

    buffers: ClassVar[tuple[str, ...]]
    counts_steps: ClassVar[bool] = False

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        """Take one step on tensors of one shape, in place.

        Args:
            work: the parameter or a piece of it, its gradient, and its buffers in the order of the
                class attribute `buffers`.
            group: the parameter group, with the values of all arguments.
            step: counts from 1; a tensor of no dimensions where torch.compile traces it.
        """
        raise NotImplementedError

    def _initial_value(self, param: Tensor, name: str, group: dict[str, Any]) -> Tensor | None:
        """Return what a buffer starts from, or None for zeros."""
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            layout = self._state_layout(group)
            for param in group["params"]:
                self._ensure_layout(param, group, layout)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients.

        Returns:
            What `closure` returned, or None without one.

        Raises:
            RuntimeError: a gradient is sparse.
            ValueError: a gradient or the state of a parameter no longer has its shape.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # All groups first: what is refused is refused before any parameter has moved.
        ready: list[list[Tensor]] = [[] for _ in self.param_groups]
        for index, params in enumerate(ready):
            self._adopt_momentum(self.param_groups[index])
            self._init_group(index, params)
        for group, params in zip(self.param_groups, ready, strict=True):
            if isinstance(group["lr"], Tensor):  # of one element, in any number of dimensions
                group = group | {"lr": group["lr"].squeeze()}
            self._step_group(params, group)
        return loss

    def _init_group(self, index: int, params: list[Tensor]) -> None:
        """Append a group's parameters with gradients to `params`, and see to their state.

        torch.compile runs a method of this name at once and leaves it out of its graph, which then
        serves the first step too (torch._dynamo.variables.optimizer).
        """
        group = self.param_groups[index]
        layout = self._state_layout(group)
        for param in group["params"]:
            if param.grad is None:
                continue
            self._check_grad(param)
            if self.state[param]:
                self._ensure_layout(param, group, layout)
            else:
                self._new_state(param, group, layout)
            params.append(param)

    def _check_grad(self, param: Tensor) -> None:
        if param.grad.layout != torch.strided:
            raise RuntimeError(f"{type(self).__name__} does not take sparse gradients")
        if param.grad.shape != param.shape:
            raise ValueError(
                f"{self._name_of(param)}: its gradient has shape {tuple(param.grad.shape)}, but it"
                f" must have {tuple(param.shape)}"
            )

    def _step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        for param in params:
            self._step_param(param, group)

    def _step_param(self, param: Tensor, group: dict[str, Any]) -> None:
        """Take the step of one parameter, piece by piece."""
        step = self._count(param)
        for piece in self._pieces(param, group):
            self._step_piece(piece, group, step)

    def _step_piece(self, piece: Piece, group: dict[str, Any], step: int | Tensor) -> None:
        work = piece.load()
        self._update(work, group, step)
        piece.store(work)

    def _count(self, param: Tensor) -> int | Tensor:
        """Return which step on `param` this is, and remember it."""
        if not self.counts_steps:
            return 0
        # A tensor, as torch's own optimizers have it: checkpoints carry it as they carry the rest.
        count = self.state[param]["step"]
        count += 1
        # A number would be a constant of the compiled graph, and so another graph at each step.
        return count.double() if torch.compiler.is_compiling() else int(count)

    def _state_layout(self, group: dict[str, Any]) -> StateLayout:
        """Return what is kept of each parameter of a group between steps."""
        storage = storage_for(group["state_precision"], group["block_size"])
        return StateLayout(self.buffers, storage, self.counts_steps)

    def _new_state(self, param: Tensor, group: dict[str, Any], layout: StateLayout) -> None:
        storage = layout.storage
        if layout.counts_steps:
            self.state[param]["step"] = torch.tensor(0.0, dtype=torch.float32)
        for name in layout.buffers:
            parts = {part.suffix: new_part(param, part) for part in storage.parts}
            start = self._initial_value(param, name, group)
            if start is not None:
                own = local(start).reshape(-1)
                stored = [part.stored(parts[part.suffix], own.numel()) for part in storage.parts]
                storage.store(stored, own)
            for suffix, part in parts.items():
                self.state[param][name + suffix] = part

    def _ensure_layout(self, param: Tensor, group: dict[str, Any], layout: StateLayout) -> None:
        """Hold the state of a parameter, if it has any, to what is kept of it."""
        state = self.state.get(param)
        if state and not matches(state, param, layout):
            try:
                self.state[param] = converted(state, param, layout, group["block_size"])
            except ValueError as error:
                raise ValueError(f"{self._name_of(param)}: {error}") from None

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
        storage = storage_for(group["state_precision"], group["block_size"])
        state = self.state[param]
        stored = [
            [part.stored(state[name + part.suffix], numel) for part in storage.parts]
            for name in self.buffers
        ]
        if not (own.is_contiguous() and grad.is_contiguous()):
            yield Piece(own, grad, stored, storage, group)
            return
        whole = Piece(own.view(-1), grad.view(-1), stored, storage, group)
        multiple = 2 * group["block_size"]  # whole blocks, and whole bytes of 4-bit codes
        size = max(1, (limit or piece_limit(own.device)) // multiple) * multiple
        for start in range(0, numel, size):
            yield whole.cut(start, min(start + size, numel))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's optimizers do."""
        for group in self.param_groups:
            self._adopt_momentum(group)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, each tensor in the precision that its group asks for.

        `Optimizer.load_state_dict` casts state to the dtype of its parameter, which would turn int8
        codes into floats and round an fp32 momentum to bf16 (pytorch/pytorch#43706). So it is left
        the groups alone.

        Raises:
            ValueError: the state is another optimizer's or of other parameters, or a value of a
                group breaks a rule. The optimizer is then as it was.
        """
        loaded: list[tuple[int, Tensor, dict[str, Any]]] = []

        def take_states(_: Optimizer, given: dict[str, Any]) -> dict[str, Any] | None:
            """Take what the caller's own hooks made of `state_dict`, if it can be loaded."""
            if not self._has_groups_like(given["param_groups"]):
                return None  # torch says so
            loaded.extend(self._checked_states(given))
            ids = {index for group in given["param_groups"] for index in group["params"]}
            others = {key: value for key, value in given["state"].items() if key not in ids}
            return given | {"state": others}

        def restore(_: Optimizer) -> None:
            for index, param, state in loaded:
                group = self.param_groups[index]
                layout = self._state_layout(group)
                self.state[param] = converted(state, param, layout, group["block_size"])

        before = self.register_load_state_dict_pre_hook(take_states)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _has_groups_like(self, saved: Sequence[dict[str, Any]]) -> bool:
        sizes = [
            [len(group["params"]) for group in groups] for groups in (self.param_groups, saved)
        ]
        return sizes[0] == sizes[1]

    def _checked_states(
        self, given: dict[str, Any]
    ) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """Yield the index of its group, the parameter and its state, of each that has one.

        Raises:
            ValueError: as `load_state_dict`.
        """
        for index, (own, saved) in enumerate(
            zip(self.param_groups, given["param_groups"], strict=True)
        ):
            group = self._with_legacy_defaults(saved | {"params": own["params"]})
            self._check_arguments(group)
            self._check_params(group)
            layout = self._state_layout(group)
            for key, param in zip(saved["params"], own["params"], strict=True):
                state = given["state"].get(key)
                if not state:
                    continue
                try:
                    check_state(state, param, layout, group["block_size"])
                except ValueError as error:
                    raise ValueError(f"{self._name_of(param)}: {error}") from None
                yield index, param, state
