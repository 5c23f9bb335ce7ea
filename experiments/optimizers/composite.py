"""Several optimizers that step, checkpoint and follow a schedule as one."""

from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Any]  # the value of Optimizer.state_dict()


class CompositeOptimizer(Optimizer):
    """Optimizers of disjoint parameters as one optimizer.

    Its parameter groups are those of the parts, the same dicts, so a learning rate that a scheduler
    sets is that of the part. Its state dict has torch's format: parameters are numbered in the
    order of the groups. Entries that a part adds to its own state dict are kept under "parts".

    Args:
        parts: the optimizers; each has its parameters already.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._join()

    def _join(self) -> None:
        """Refer to the groups and states of the parts, which replace theirs when they load."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = _States(*(part.state for part in self.parts))

    def step(self, closure: None = None) -> None:
        """Let each part take its step.

        Args:
            closure: must be None; it is an argument because torch's own functions pass it.
        """
        for part in self.parts:
            part.step()
        self._join()

    def state_dict(self) -> State:
        """Return the states and groups of all parts, with parameters numbered over all of them."""
        joined: State = {"state": {}, "param_groups": []}
        others = []
        for part, first in zip(self.parts, self._first_numbers(), strict=True):
            state = part.state_dict()
            others.append({key: state[key] for key in state.keys() - joined.keys()})
            for number, values in state["state"].items():
                joined["state"][number + first] = values
            for group in state["param_groups"]:
                numbers = [number + first for number in group["params"]]
                joined["param_groups"].append(group | {"params": numbers})
        return joined | ({"parts": others} if any(others) else {})

    def load_state_dict(self, state_dict: State) -> None:
        """Load a state dict of the same parts.

        As in torch, only the order of the groups' parameters counts, whatever stands for them.

        Raises:
            ValueError: it has another number of groups, or a part refuses its own.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"the state has {len(groups)} parameter groups, but the optimizer"
                f" {len(self.param_groups)}"
            )
        others = state_dict.get("parts", [{}] * len(self.parts))
        done = 0
        for part, extra in zip(self.parts, others, strict=True):
            own = groups[done : done + len(part.param_groups)]
            done += len(part.param_groups)
            keys = [key for group in own for key in group["params"]]
            numbers = {key: number for number, key in enumerate(keys)}
            part.load_state_dict(
                extra
                | {
                    "state": {
                        numbers[key]: values
                        for key, values in state_dict["state"].items()
                        if key in numbers
                    },
                    "param_groups": [
                        group | {"params": [numbers[key] for key in group["params"]]}
                        for group in own
                    ],
                }
            )
        self._join()

    def _first_numbers(self) -> list[int]:
        """Return the number of each part's first parameter."""
        sizes = [sum(len(group["params"]) for group in part.param_groups) for part in self.parts]
        return [0, *accumulate(sizes[:-1])]


class _States(ChainMap):
    """The states of several optimizers by parameter, without a copy.

    An optimizer's own mapping adds an entry for any parameter that it is asked for.
    """

    def __getitem__(self, param: Tensor) -> Any:
        """Return the state of a parameter from the optimizer that has it."""
        return self._owner(param)[param]

    def __setitem__(self, param: Tensor, state: Any) -> None:
        """Replace the state of a parameter in the optimizer that has it."""
        self._owner(param)[param] = state

    def _owner(self, param: Tensor) -> MutableMapping:
        for states in self.maps:
            if param in states:
                return states
        raise KeyError(param)


def parts_of(optimizer: Optimizer) -> list[Optimizer]:
    """Return the parts of a composite optimizer; any other optimizer is its only part."""
    return optimizer.parts if isinstance(optimizer, CompositeOptimizer) else [optimizer]
