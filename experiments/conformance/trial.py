"""A tiny language model that an optimizer trains on one batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from experiments.models.build import build_model
from experiments.models.settings import GPT2Settings
from experiments.optimizers.build import build_optimizer
from experiments.optimizers.composite import parts_of
from experiments.optimizers.exact_loading import load_exactly
from experiments.optimizers.modes import switch_mode
from experiments.optimizers.settings import OptimizerSpec
from experiments.settings import ConfigError
from experiments.training.sharding import full_tensor

# The matrices are just large enough for libraries that quantise only tensors of 4096 elements.
MODEL = GPT2Settings(family="gpt2", layers=1, width=64, heads=2, context=16, vocab_size=128)
STEPS = 40  # also the value of $training.steps
_SEQUENCES = 4
_WEIGHT_DECAY = 0.1


class Trial:
    """A model of `MODEL`, its optimizer in training mode, and one batch of random tokens.

    Args:
        spec: the optimizer.
        lr: the learning rate.
        seed: of the initial weights and of everything random that the optimizer does.
        wrapped: returns the model to train, such as a DistributedDataParallel of it. It may also
            shard the model in place, because the optimizer is built afterwards.
        parts: the sequences of each micro-batch of this process. Its loss and its gradients are the
            means over the micro-batches. By default the whole batch is one.
        device: where the model is; by default on a GPU if there is one.

    Raises:
        ConfigError: the optimizer cannot be built.
    """

    def __init__(
        self,
        spec: OptimizerSpec,
        lr: float,
        *,
        seed: int = 0,
        wrapped: Callable[[nn.Module], nn.Module] = lambda model: model,
        parts: Sequence[slice] = (slice(None),),
        device: str | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        tokens = torch.randint(
            MODEL.vocab_size,
            (_SEQUENCES, MODEL.context + 1),
            generator=torch.Generator().manual_seed(1),
        ).to(device)
        self._batches = [(tokens[part, :-1], tokens[part, 1:]) for part in parts]
        self._spec = spec
        torch.manual_seed(seed)  # for optimizers that round at random
        self.model = build_model(MODEL, seed, device)
        self._trained = wrapped(self.model)
        self.optimizer = _built(spec, self.model, lr)
        for each in parts_of(self.optimizer):
            load_exactly(each)
        switch_mode(self.optimizer, train=True)

    def gradients(self) -> Tensor:
        """Compute the gradients of the batch, and return its loss, a scalar."""
        self.optimizer.zero_grad()
        losses = []
        for batch in self._batches:
            loss = self._trained(*batch)
            (loss / len(self._batches)).backward()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def step(self) -> None:
        """Let the optimizer step on gradients that are there; with a closure if it needs one."""
        if self._spec.closure:
            self.optimizer.step(torch.enable_grad()(self.gradients))
        else:
            self.optimizer.step()

    def train(self, steps: int) -> "Trial":
        """Take steps on the batch, and return the trial itself."""
        for _ in range(steps):
            self.gradients()
            self.step()
        return self

    @torch.no_grad()
    def loss(self) -> float:
        """Return the loss of the batch in evaluation mode, in nats per token."""
        switch_mode(self.optimizer, train=False)
        losses = [self._trained(*batch).item() for batch in self._batches]
        switch_mode(self.optimizer, train=True)
        return sum(losses) / len(losses)

    def weights(self) -> Tensor:
        """Return a copy of all parameters as one vector; of sharded ones, the full parameters."""
        full = (full_tensor(param.detach()) for param in self.model.parameters())
        return torch.cat([param.flatten() for param in full])


def _built(spec: OptimizerSpec, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer with weight decay; without it if its class has none."""
    try:
        return build_optimizer(spec, model, lr, _WEIGHT_DECAY)
    except ConfigError as error:
        if error.field != ("training", "weight_decay"):
            raise
        return build_optimizer(spec, model, lr, 0.0)
