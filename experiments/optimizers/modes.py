"""Optimizers that keep different weights for training and for evaluation."""

from torch.optim import Optimizer

from experiments.optimizers.composite import parts_of


def has_modes(optimizer: Optimizer) -> bool:
    """Return whether an optimizer, or a part of it, has the methods `train` and `eval`.

    Schedule-free optimizers have them: gradients are taken at one point and the loss is evaluated
    at another (Defazio et al., arXiv:2405.15682).
    """
    return bool(_with_modes(optimizer))


def switch_mode(optimizer: Optimizer, train: bool) -> None:
    """Switch an optimizer to training or to evaluation; this may change the model's parameters.

    Args:
        optimizer: it, or its parts, may have modes; others are unchanged.
        train: whether to switch to training.
    """
    for part in _with_modes(optimizer):
        part.train() if train else part.eval()
        # Looking a state up makes an empty one, which torch's loaders would take for initialised:
        # https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/checkpoint/state_dict.py
        for param in [param for param, state in part.state.items() if state == {}]:
            del part.state[param]


def _with_modes(optimizer: Optimizer) -> list[Optimizer]:
    return [
        part
        for part in parts_of(optimizer)
        if all(callable(getattr(part, mode, None)) for mode in ("train", "eval"))
    ]
