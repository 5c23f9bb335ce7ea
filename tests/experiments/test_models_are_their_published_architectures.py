"""Qwen3, its mixture of experts and DeepSeek-V2 have their published sizes, and learn."""

import re

import numpy as np
import pytest
import torch

from experiments.models.build import build_model, model_on_meta
from experiments.plan.reading import load_profile

MODELS = load_profile("laptop").models
NANO = ["qwen3-nano", "qwen3-moe-nano", "deepseek-nano"]
MIXTURES = ["qwen3-moe-nano", "deepseek-nano"]


@pytest.fixture
def batch():
    tokens = torch.randint(0, 4096, (2, 33), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def fresh(name, **changes):
    torch.manual_seed(0)
    return build_model(MODELS[name].model_copy(update=changes))


# Parameters in billions. Sources: arXiv:2505.09388, arXiv:2405.04434, arXiv:2605.10335, table 1.
@pytest.mark.parametrize(
    ("name", "total", "routed"),
    [
        ("qwen3-0.6b", 0.596, 0),
        ("qwen3-1.7b", 1.721, 0),
        ("qwen3-4b", 4.022, 0),
        ("qwen3-8b", 8.191, 0),
        ("qwen3-32b", 32.762, 0),
        ("qwen3-30b-a3b", 30.532, 28.991),
        ("qwen3-235b-a22b", 235.094, 227.096),
        ("deepseek-v2-lite", 15.706, 14.395),
    ],
)
def test_the_published_sizes_are_met(name, total, routed):
    model = model_on_meta(MODELS[name])
    sizes = {key: param.numel() / 1e9 for key, param in model.named_parameters()}
    assert sum(sizes.values()) == pytest.approx(total, abs=6e-4)
    of_experts = sum(size for key, size in sizes.items() if re.search(r"mlp\.experts\.", key))
    assert of_experts == pytest.approx(routed, abs=6e-4)


@pytest.mark.parametrize("name", NANO)
def test_the_small_members_have_one_to_three_million_parameters(name):
    assert 1e6 < sum(p.numel() for p in fresh(name).parameters()) < 3e6


@pytest.mark.parametrize("name", NANO)
def test_the_loss_is_the_cross_entropy_of_the_logits(name, batch):
    model = fresh(name)
    inputs, targets = batch
    with torch.no_grad():
        logits = model.model(inputs).logits.double().numpy()
        loss = model(inputs, targets).item()
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    chosen = np.take_along_axis(logits, targets.numpy()[..., None], -1)[..., 0]
    assert loss == pytest.approx((log_sum - chosen).mean(), rel=1e-6)


@pytest.mark.parametrize("name", NANO)
def test_a_token_does_not_see_later_ones(name, batch):
    model = fresh(name).eval()
    inputs = batch[0]
    later = inputs.clone()
    later[:, 20:] = 7
    with torch.no_grad():
        a, b = model.model(inputs).logits, model.model(later).logits
    torch.testing.assert_close(a[:, :20], b[:, :20], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(a[:, 20:], b[:, 20:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NANO)
def test_every_family_learns_a_batch(name, dtype, batch):
    model = fresh(name, layers=2).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(param.grad is not None for param in model.parameters())
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("name", MIXTURES)
def test_the_balancing_loss_adds_its_gradient_and_no_loss(name, batch):
    losses, gradients, hidden = {}, {}, []
    for weight in (0.0, 1.0):
        model = fresh(name, router_aux_loss=weight)
        # The last layer's router, because the balance of no other router depends on it.
        router = model.model.model.layers[-1].mlp.gate
        router.register_forward_hook(lambda _, inputs, __: hidden.append(inputs[0].detach()))
        losses[weight] = model(*batch)
        losses[weight].backward()
        gradients[weight] = router.weight.grad.numpy()
    assert losses[0.0].item() == losses[1.0].item()
    router_logits = [logits.detach().double().numpy() for logits in model._router_logits]
    by_logit = balancing_gradient(router_logits, MODELS[name].experts_per_token)[-1]
    by_hand = by_logit.T @ hidden[-1].flatten(0, -2).double().numpy()
    np.testing.assert_allclose(gradients[1.0] - gradients[0.0], by_hand, rtol=1e-3, atol=1e-6)


def balancing_gradient(router_logits, top_k):
    """Return the gradient, in float64, of E Σ_i f_i P_i (arXiv:2101.03961, equations 4 to 6).

    f_i is the fraction of tokens routed to expert i, a constant. P_i is the mean of expert i's
    probability. Both are over the tokens of all layers.
    """
    every = np.concatenate(router_logits)
    probabilities = np.exp(every - every.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    chosen = np.argsort(-probabilities, axis=1)[:, :top_k]
    experts = every.shape[1]
    share = np.bincount(chosen.ravel(), minlength=experts) / len(every)
    slope = experts * share / len(every)  # derivative of the loss by each token's probabilities
    gradient = probabilities * (slope - (probabilities * slope).sum(1, keepdims=True))
    return np.split(gradient, len(router_logits))


@pytest.mark.parametrize("name", MIXTURES)
def test_validation_leaves_the_balance_out(name, batch):
    model = fresh(name, router_aux_loss=1.0).eval()
    with torch.no_grad():
        assert model(*batch).item() == fresh(name, router_aux_loss=0.0)(*batch).item()


@pytest.mark.parametrize("name", NANO)
def test_the_seed_decides_the_weights(name):
    first, again = fresh(name), fresh(name)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
