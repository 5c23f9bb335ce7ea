"""The base class of all optimizers of this library: everything except the update formula."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from powerstep.dtensors import local, local_grad
from powerstep.kernels.formula import Formula
from powerstep.kernels.step import Kind, kernel_for, kind_of
from powerstep.loading import check_state, converted, matches
from powerstep.pieces import Piece, Work, piece_limit
from powerstep.state import StateLayout, new_part, storage_for
from powerstep.validation import ValidatedOptimizer


class ElementwiseOptimizer(ValidatedOptimizer):
    """Base class of optimizers that update each element from its own gradient and state only.

    A subclass names its buffers in `buffers`, defines a rule for each of its arguments in `rules`,
    and implements `_update`. This class stores the buffers in the requested precision, computes in
    fp32 for every parameter dtype, handles the local shards of DTensors, and does not modify
    gradients. For fp64 parameters, θ itself is updated in fp64.
    """

    buffers: ClassVar[tuple[str, ...]]
    counts_steps: ClassVar[bool] = False

    def _update(self, work: Work, group: dict[str, Any], step: int | Tensor) -> None:
        """Update a parameter and its buffers in place.

        Args:
            work: the parameter or a piece of it, its gradient, and its buffers in the order of the
                class attribute `buffers`; all of one shape.
            group: the parameter group, with the values of all arguments.
            step: the step number, counted from 1, or 0 if the class does not count steps. Under
                torch.compile, and if the group is capturable, it is a 0-dimensional fp64 tensor.
        """
        raise NotImplementedError

    def _formula(self, group: dict[str, Any], step: int | Tensor) -> Formula | None:
        """Return `_update` as text for kernels, or None if no kernel can be used.

        Args:
            group: as in `_update`.
            step: as in `_update`.
        """
        return None

    def _initial_value(self, param: Tensor, name: str, group: dict[str, Any]) -> Tensor | None:
        """Return the initial value of a buffer, or None for zeros."""
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            layout = self._state_layout(group)
            for param in group["params"]:
                state = self.state.get(param)
                if state and not matches(state, param, layout):
                    self._convert_state(param, group, layout)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any | None:
        """Update every parameter that has a gradient.

        Args:
            closure: recomputes the loss and the gradients.

        Returns:
            The return value of `closure`, or None without a closure.

        Raises:
            RuntimeError: a gradient is sparse.
            ValueError: the shape of a gradient or of a state differs from its parameter's.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Check all groups first, so that an error leaves every parameter unchanged.
        ready: list[list[Tensor]] = [[] for _ in self.param_groups]
        for index, params in enumerate(ready):
            self._adopt_momentum(self.param_groups[index])
            self._init_group(index, params)
        for group, params in zip(self.param_groups, ready, strict=True):
            if isinstance(group["lr"], Tensor):  # one element, any number of dimensions
                group = group | {"lr": group["lr"].squeeze()}
            self._step_group(params, group)
        return loss

    def _init_group(self, index: int, params: list[Tensor]) -> None:
        """Append a group's parameters with gradients to `params`, and initialise their state.

        torch.compile calls a method of this name eagerly and leaves it out of the graph, so that
        the first step uses the same graph as later ones (torch._dynamo.variables.optimizer).
        """
        group = self.param_groups[index]
        layout = self._state_layout(group)
        for param in group["params"]:
            if param.grad is None:
                continue
            self._check_grad(param)
            state = self.state[param]
            if not state:
                self._new_state(param, group, layout)
            elif not matches(state, param, layout):
                self._convert_state(param, group, layout)
            params.append(param)

    def _step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        is_unwanted = group["compiled"] is False or group.get("foreach")
        # Under torch.compile, the caller compiles the whole step.
        if not is_unwanted and not torch.compiler.is_compiling():
            params = self._step_compiled(params, group)
        self._step_each(params, group)

    def _step_each(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update parameters one after another, with torch's operations."""
        for param in params:
            self._step_param(param, group)

    def _step_compiled(self, params: Sequence[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Update parameters with kernels, all alike in one call; return those that have none."""
        parts = storage_for(group["state_precision"], group["block_size"]).parts
        names = [name + part.suffix for name in self.buffers for part in parts]
        batches: dict[Kind, list[tuple[Tensor, list[Tensor]]]] = {}
        for param in params:
            state, own, grad = self.state[param], local(param), local_grad(param)
            tensors = [own, grad, *[local(state[name]) for name in names]]
            batches.setdefault(kind_of(own, grad), []).append((param, tensors))
        others: list[Tensor] = []
        formula = self._formula(group, 1)
        for alike, batch in batches.items():
            kernel = formula and kernel_for(alike, formula, self.buffers, group)
            if not kernel:
                others += [param for param, _ in batch]
                continue
            counts = self._count([param for param, _ in batch], group)
            formulas = {count: self._formula(group, count) for count in set(counts)}
            kernel.step([tensors for _, tensors in batch], counts, formulas)
        return others

    def _step_param(self, param: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter, piece by piece."""
        (step,) = self._count([param], group)
        for piece in self._pieces(param, group):
            self._step_piece(piece, group, step)

    def _step_piece(self, piece: Piece, group: dict[str, Any], step: int | Tensor) -> None:
        work = piece.load()
        self._update(work, group, step)
        piece.store(work)

    def _count(self, params: Sequence[Tensor], group: dict[str, Any]) -> list[int | Tensor]:
        """Increment and return the step numbers; zeros if the class does not count steps."""
        if not self.counts_steps:
            return [0] * len(params)
        # A count is a tensor, as in torch's optimizers, so that checkpoints treat it like state.
        counts = [self.state[param]["step"] for param in params]
        torch._foreach_add_(counts, 1)
        # torch.compile and CUDA graphs would treat a number as a constant.
        stays = group["capturable"] or torch.compiler.is_compiling()
        return [count.double() if stays else int(count) for count in counts]

    def _state_layout(self, group: dict[str, Any]) -> StateLayout:
        """Return the layout of the state of a group's parameters."""
        storage = storage_for(group["state_precision"], group["block_size"])
        return StateLayout(self.buffers, storage, self.counts_steps, group["capturable"])

    def _new_state(self, param: Tensor, group: dict[str, Any], layout: StateLayout) -> None:
        storage = layout.storage
        if layout.counts_steps:
            device = layout.count_device(param)
            self.state[param]["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for name in layout.buffers:
            parts = {part.suffix: new_part(param, part) for part in storage.parts}
            start = self._initial_value(param, name, group)
            if start is not None:
                own = local(start).reshape(-1)
                stored = [part.stored(parts[part.suffix], own.numel()) for part in storage.parts]
                storage.store(stored, own)
            for suffix, part in parts.items():
                self.state[param][name + suffix] = part

    def _convert_state(self, param: Tensor, group: dict[str, Any], layout: StateLayout) -> None:
        """Convert the state of a parameter to the layout."""
        try:
            self.state[param] = converted(self.state[param], param, layout, group["block_size"])
        except ValueError as error:
            raise ValueError(f"{self._name_of(param)}: {error}") from None

    def _pieces(self, param: Tensor, group: dict[str, Any]) -> Iterator[Piece]:
        """Split a parameter, its gradient and its state into flat views.

        If the parameter or its gradient is not contiguous, it is yielded whole, in its own shape.
        An empty parameter yields nothing.

        Args:
            param: a parameter with a gradient and state.
            group: its parameter group.
        """
        own, grad = local(param), local_grad(param)
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
        multiple = 2 * group["block_size"]  # whole blocks and whole bytes of 4-bit codes
        size = max(1, piece_limit(own.device) // multiple) * multiple
        for start in range(0, numel, size):
            yield whole.cut(start, min(start + size, numel))

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the format of torch's optimizers."""
        for group in self.param_groups:
            self._adopt_momentum(group)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, and convert it to the precision of each parameter group.

        `Optimizer.load_state_dict` casts state to the dtype of its parameter, which would turn int8
        codes into floats and round an fp32 momentum to bf16 (pytorch/pytorch#43706). It therefore
        loads only the groups here.

        Raises:
            ValueError: the state belongs to another optimizer or to other parameters, or a group
                has an invalid value. The optimizer is then unchanged.
        """
        loaded: list[tuple[int, Tensor, dict[str, Any]]] = []

        def take_states(_: Optimizer, given: dict[str, Any]) -> dict[str, Any] | None:
            """Check and remove the state of parameters, after the caller's own hooks have run."""
            if not self._has_groups_like(given["param_groups"]):
                return None  # torch raises the error
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
        own, others = ([len(group["params"]) for group in x] for x in (self.param_groups, saved))
        return own == others

    def _checked_states(
        self, given: dict[str, Any]
    ) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """Yield the group index, the parameter and its state for each parameter with state.

        Raises:
            ValueError: as in `load_state_dict`.
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
