"""Checks a parameter's state against the optimizer's layout, and converts it.

A state may differ from the layout if it was loaded from a state dict or a pickle, or if the user
replaced `param.data` or changed the precision of a group.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from powerstep.dtensors import is_dtensor, local, placements_like
from powerstep.state import Blockwise, Full, Part, StateLayout, Storage, new_part, part_shapes

State = Mapping[str, Any]  # the state of one parameter, as in Optimizer.state


def matches(state: State, param: Tensor, layout: StateLayout) -> bool:
    """Return whether a state has the layout. It must be quick: every step calls it."""
    device, is_sharded = param.device, is_dtensor(param)
    for part in layout.storage.parts:
        shape = param.shape if part.span == 1 else part_shapes(param, part)[1]
        for buffer in layout.buffers:
            stored = state.get(buffer + part.suffix)
            if not (
                isinstance(stored, Tensor)
                and stored.dtype is part.dtype
                and stored.shape == shape
                and stored.device == device
                and stored.is_contiguous()
                and is_dtensor(stored) == is_sharded
            ):
                return False
    if not layout.counts_steps:
        return True
    count = state.get("step")
    return isinstance(count, Tensor) and count.device == layout.count_device(param)


def check_state(state: State, param: Tensor, layout: StateLayout, block_size: int) -> None:
    """Raise ValueError for a state that `converted` cannot convert. Copies no tensor.

    Args:
        state: the state of one parameter.
        param: the parameter.
        layout: the layout that the optimizer uses.
        block_size: number of elements that share a scale, if the state is quantised.

    Raises:
        ValueError: a part is missing, or has a wrong shape, kind of dtype or placement.
    """
    for buffer in layout.buffers:
        _storage_of(state, buffer, param, layout, block_size)
    if layout.counts_steps:
        _check_count(state)


@torch.no_grad()
def converted(state: State, param: Tensor, layout: StateLayout, block_size: int) -> dict[str, Any]:
    """Return a copy of a state in the layout: cast, requantised, and moved to the device.

    The arguments and errors are those of `check_state`. Unknown entries are copied.
    """
    check_state(state, param, layout, block_size)
    known: dict[str, Any] = {}
    if layout.counts_steps:
        count, device = float(state["step"]), layout.count_device(param)
        known["step"] = torch.tensor(count, dtype=torch.float32, device=device)
    for buffer in layout.buffers:
        storage = _storage_of(state, buffer, param, layout, block_size)
        parts = [_copy(state[buffer + part.suffix], param, part) for part in storage.parts]
        if storage.parts != layout.storage.parts:
            parts = _stored_anew(parts, storage, param, layout)
        for part, stored in zip(layout.storage.parts, parts, strict=True):
            known[buffer + part.suffix] = stored
    suffixes = ("", "_codes", "_scales")
    replaced = {buffer + suffix for buffer in layout.buffers for suffix in suffixes}
    others = {key: value for key, value in state.items() if key not in replaced | known.keys()}
    return known | {
        key: value.to(param.device, copy=True)
        if isinstance(value, Tensor)
        else copy.deepcopy(value)
        for key, value in others.items()
    }


def _storage_of(
    state: State, buffer: str, param: Tensor, layout: StateLayout, block_size: int
) -> Storage:
    """Return how `state` stores a buffer, which may differ from the layout."""

    def has(*suffixes: str) -> bool:
        return all(isinstance(state.get(buffer + suffix), Tensor) for suffix in suffixes)

    storage: Storage
    if has("_codes", "_scales") and not (has("") and isinstance(layout.storage, Full)):
        storage = Blockwise(4 if state[buffer + "_codes"].dtype == torch.uint8 else 8, block_size)
    elif has(""):
        storage = Full(state[buffer].dtype)
    else:
        wanted = " and ".join(buffer + part.suffix for part in layout.storage.parts)
        raise ValueError(
            f"the state has {', '.join(map(str, state)) or 'nothing'}, but it must have"
            f" {wanted}; it belongs to another optimizer, or a part is missing"
        )
    for part in storage.parts:
        _check_part(state[buffer + part.suffix], buffer + part.suffix, param, part)
    return storage


def _check_part(stored: Tensor, name: str, param: Tensor, part: Part) -> None:
    is_code = part.suffix == "_codes"
    if not (stored.dtype == part.dtype if is_code else stored.is_floating_point()):
        wanted = part.dtype if is_code else "a floating-point dtype"
        raise ValueError(f"{name} has dtype {stored.dtype}, but it must have {wanted}")
    own_shape, shape = part_shapes(param, part)
    if stored.shape != shape and not _is_flattened(stored, shape, part):
        raise ValueError(
            f"{name} has shape {tuple(stored.shape)}, but it must have {tuple(shape)} for a"
            f" parameter of shape {tuple(param.shape)}"
        )
    if is_dtensor(stored) != is_dtensor(param):
        kinds = ["a DTensor" if is_dtensor(x) else "a plain tensor" for x in (stored, param)]
        raise ValueError(f"{name} is {kinds[0]}, but it must be {kinds[1]} like its parameter")
    if is_dtensor(stored) and (
        local(stored).shape != own_shape
        or list(stored.placements) != placements_like(param, len(shape))
    ):
        raise ValueError(
            f"{name} has placements {stored.placements}, but it must be sharded like its"
            f" parameter, {param.placements}"
        )


def _is_flattened(stored: Tensor, shape: tuple[int, ...], part: Part) -> bool:
    """Return whether these are scales in the flat shape that the first release used."""
    return part.suffix == "_scales" and stored.shape == (math.prod(shape),)


def _check_count(state: State) -> None:
    step = state.get("step")
    is_number = isinstance(step, int | float) or (isinstance(step, Tensor) and step.numel() == 1)
    if not (is_number and float(step) >= 0 and float(step).is_integer()):
        raise ValueError(f"step is {step!r}, but it must be a whole number, at least 0")


def _copy(stored: Tensor, param: Tensor, part: Part) -> Tensor:
    copied = stored.detach().to(device=param.device, dtype=part.dtype, copy=True).contiguous()
    return copied if is_dtensor(param) else copied.view(part_shapes(param, part)[1])


def _stored_anew(
    parts: Sequence[Tensor], storage: Storage, param: Tensor, layout: StateLayout
) -> list[Tensor]:
    """Load a buffer from the parts of `storage`, and return it as the parts of `layout`."""
    numel = local(param).numel()
    anew = [new_part(param, part) for part in layout.storage.parts]
    before, after = (
        [part.stored(tensor, numel) for part, tensor in zip(way.parts, tensors, strict=True)]
        for way, tensors in ((storage, parts), (layout.storage, anew))
    )
    layout.storage.store(after, storage.load(before, numel))
    return anew
