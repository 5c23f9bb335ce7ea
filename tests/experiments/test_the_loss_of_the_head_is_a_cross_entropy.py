"""The loss of the head and its gradients against torch's cross-entropy in float64."""

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch.nn import functional as F

from experiments.models import loss
from experiments.models.loss import head_loss


def inputs(vocab_size=50, dtype=torch.float32, length=7):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, length, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocab_size, 16, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab_size, (3, length), generator=generator)


def expected(hidden, weight, targets):
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    mean = F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    mean.backward()
    return mean.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("at_once", [1, 200, 50 * 21, 10**6])  # logits; a token has 50
def test_loss_and_gradients_are_those_of_float64(monkeypatch, at_once):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    hidden, weight, targets = inputs()
    mean, *grads = expected(hidden, weight, targets)
    actual = head_loss(hidden, weight, targets)
    (2 * actual).backward()
    torch.testing.assert_close(actual.double(), mean, rtol=1e-6, atol=0)
    for param, grad in zip((hidden, weight), grads, strict=True):
        torch.testing.assert_close(param.grad.double(), 2 * grad, rtol=1e-5, atol=1e-7)


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, targets = inputs()
    with torch.no_grad():
        assert head_loss(hidden, weight, targets) == head_loss(*inputs())


def test_a_tied_matrix_gets_the_gradients_of_both_its_uses():
    _, weight, targets = inputs()
    head_loss(F.embedding(targets, weight), weight, targets.roll(1)).backward()
    exact = weight.detach().double().requires_grad_()
    logits = F.embedding(targets, exact) @ exact.T
    F.cross_entropy(logits.flatten(0, 1), targets.roll(1).flatten()).backward()
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-5, atol=1e-7)


def test_under_bf16_autocast_the_softmax_is_in_fp32():
    hidden, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        actual = head_loss(hidden, weight, targets)
    actual.backward()
    logits = (hidden.detach().bfloat16() @ weight.detach().bfloat16().T).double()
    exact = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)
    grads = expected(hidden, weight, targets)[1:]
    for param, grad in zip((hidden, weight), grads, strict=True):
        assert param.grad.dtype == torch.float32
        torch.testing.assert_close(param.grad.double(), grad, rtol=0.1, atol=1e-3)


def test_with_bf16_weights_the_loss_is_in_fp32():
    hidden, weight, targets = inputs(dtype=torch.bfloat16)
    with HalfPrecision("bf16-true").forward_context():  # in which Lightning calls the model
        actual = head_loss(hidden, weight, targets)
    logits = (hidden.detach() @ weight.detach().T).double()
    exact = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)


def test_bf16_gradients_of_many_chunks_are_rounded_once(monkeypatch):
    hidden, weight, targets = inputs(dtype=torch.bfloat16, length=400)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 50)  # a token at a time
    head_loss(hidden, weight, targets).backward()
    exact = expected(hidden, weight, targets)[2]
    # Rounding to bf16 is off by up to 2^-9; sums in bf16 would be off by 0.024 here.
    assert (weight.grad.double() - exact).norm() / exact.norm() < 2**-8


def test_no_more_logits_exist_than_allowed(monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 200)
    largest = []
    log_softmax = torch.Tensor.log_softmax
    monkeypatch.setattr(
        torch.Tensor,
        "log_softmax",
        lambda self, dim: largest.append(self.numel()) or log_softmax(self, dim),
    )
    head_loss(*inputs())
    assert max(largest) <= 200
    assert sum(largest) == 21 * 50
