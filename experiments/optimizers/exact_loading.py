"""Loads an optimizer's state exactly as it was saved.

torch casts loaded state to the dtype of the parameters. It copies every iterable by
`type(value)(…)`, which garbles strings and fails for arrays:
https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.load_state_dict.html
"""

from copy import copy
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

State = dict[str, Any]  # the value of Optimizer.state_dict()


def load_exactly(optimizer: Optimizer) -> None:
    """Make `load_state_dict` of an optimizer keep the dtypes and values that it is given.

    Optimizers of `powerstep` are unchanged: they convert the state to their own precision.
    """
    if any(base.__module__.startswith("powerstep.") for base in type(optimizer).__mro__):
        return
    given: State = {}

    def remember(_: Optimizer, state: State) -> State:
        given.update(state)
        plain = {key: _without_others(value) for key, value in state["state"].items()}
        return state | {"state": plain}

    def restore(optimizer: Optimizer) -> None:
        numbers = chain.from_iterable(group["params"] for group in given["param_groups"])
        params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        owners = dict(zip(numbers, params, strict=True))
        for key, value in given["state"].items():
            owner = owners.get(key, key)
            if owner in optimizer.state:
                optimizer.state[owner] = _as_given(optimizer.state[owner], value)
        given.clear()

    optimizer.register_load_state_dict_pre_hook(remember)
    optimizer.register_load_state_dict_post_hook(restore)


def _without_others(value: Any) -> Any:
    """Return nested state with None for the values that torch cannot copy."""
    if isinstance(value, dict):
        return {key: _without_others(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_without_others, value))
    return value if isinstance(value, (Tensor, bool, int, float)) else None


def _as_given(loaded: Any, given: Any) -> Any:
    """Return loaded state with the dtypes and the uncopied values of the given state."""
    if isinstance(given, Tensor) and isinstance(loaded, Tensor):
        return loaded if loaded.dtype == given.dtype else given.to(loaded.device)
    if isinstance(given, dict) and isinstance(loaded, dict):
        merged = copy(given)  # keeps the type of the mapping, in the optimizer's order
        merged.clear()
        merged.update(loaded)
        merged.update((key, _as_given(loaded[key], given[key])) for key in given if key in loaded)
        return merged
    if type(given) in (list, tuple) and type(loaded) is type(given) and len(loaded) == len(given):
        return type(given)(map(_as_given, loaded, given))
    return given if loaded is None else loaded
