"""The cross-entropy of a language model's head, without the logits of all tokens at once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from powerstep.dtensors import local

LOGITS_AT_ONCE = 2**22  # in fp32 they take 16 MB
GPU_LOGITS_AT_ONCE = 2**26  # they take 256 MB; smaller matrices would not keep a GPU busy


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the logits `hidden @ weight.T`, a scalar in fp32.

    The tokens are processed in chunks, and the gradients are computed with the loss, so no more
    than LOGITS_AT_ONCE (on a GPU, GPU_LOGITS_AT_ONCE) logits exist at a time. The softmax is in
    fp32 under autocast too. torch's `linear_cross_entropy` works alike, but is much slower on a CPU
    if the vocabulary is large.

    Args:
        hidden: outputs of the last block, shape (batch, sequence, width).
        weight: the embedding or output matrix, shape (vocabulary, width). A DTensor must be
            replicated.
        targets: token ids, int64, shape (batch, sequence).
    """
    return _HeadLoss.apply(hidden.flatten(0, 1), local(weight), targets.flatten())


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        at_once = LOGITS_AT_ONCE if hidden.device.type == "cpu" else GPU_LOGITS_AT_ONCE
        size = max(1, at_once // len(weight))
        # With bf16 weights Lightning makes bf16 torch's default dtype, in which sums lose digits.
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grads, weight_grad = [], None
        for chunk, target in zip(hidden.split(size), targets.split(size), strict=True):
            log_probs = (chunk @ weight.T).float().log_softmax(1)
            total += F.nll_loss(log_probs, target, reduction="sum")
            if any(ctx.needs_input_grad):
                grad = log_probs.exp_()  # the gradient of the logits: softmax minus one-hot
                grad[torch.arange(len(target), device=grad.device), target] -= 1
                grad = grad.to(chunk.dtype)
                hidden_grads.append((grad @ weight).to(hidden.dtype))
                part = (grad.T @ chunk).float()  # the sum over chunks would lose digits in bf16
                weight_grad = part if weight_grad is None else weight_grad.add_(part)
        if hidden_grads:
            ctx.save_for_backward(torch.cat(hidden_grads), weight_grad.to(weight.dtype))
        ctx.tokens = len(targets)
        return total / ctx.tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        factor = grad / ctx.tokens
        return hidden_grad * factor, weight_grad * factor, None
