"""The Transformer blocks of a model, and how they compute."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the Transformer blocks of a model."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


def recompute_activations(model: nn.Module) -> None:
    """Let the backward pass of each block compute its activations again, to save memory."""
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block with torch.compile; the names of the parameters stay as they are.

    The blocks are alike, so that one is compiled for all:
    https://docs.pytorch.org/tutorials/recipes/regional_compilation.html
    """
    for block in blocks(model):
        block.compile()
