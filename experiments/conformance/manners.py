"""Checks of an optimizer in one process."""

import io
import math
from collections.abc import Callable, Iterable
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from experiments.conformance.finding import Finding
from experiments.conformance.trial import STEPS, Trial
from experiments.optimizers.modes import has_modes, switch_mode
from experiments.optimizers.settings import OptimizerSpec
from experiments.optimizers.state_bytes import state_bytes
from experiments.optimizers.user_code import describe
from experiments.settings import ConfigError
from experiments.training.checkpoint import by_name, by_number, restore_rng_states, rng_states

DEFAULT_LR = 1e-3  # of an optimizer that does not learn
_LRS = (1e-2, 1e-3, 1e-1, 1.0)  # one of them suits any optimizer well enough to learn a batch
_LEARNED = 0.9  # final loss divided by the first, at most
_HALF = 3  # steps before and after an interruption
_ROUNDING = 1e-3  # of the way that the weights have gone


def imports(spec: OptimizerSpec, lr: float) -> Finding:
    """Check that the classes can be imported, and that they accept their arguments."""
    try:
        Trial(spec, lr)
    except ConfigError as error:
        return Finding("no", str(error))
    return Finding("yes")


def best_lr(spec: OptimizerSpec) -> tuple[float, Finding]:
    """Check that the loss of one batch falls; return the first learning rate where it does."""
    losses, errors = [], []
    for lr in _LRS:
        try:
            trial = Trial(spec, lr)
            first = trial.loss()
            last = trial.train(STEPS).loss()
        except (Exception, SystemExit) as error:  # it may diverge at this one and learn at the next
            errors.append(f"it raises {describe(error, *spec.classes)} at lr {lr:g}")
            continue
        losses.append(f"{last:.2f} at lr {lr:g}")
        if last < _LEARNED * first:
            return lr, Finding("yes", f"loss {first:.2f} → {losses[-1]}")
    fallen = [f"after {STEPS} steps the loss is {', '.join(losses)}"] if losses else []
    return DEFAULT_LR, Finding("no", "; ".join([*fallen, *errors[:1]]))


def gradients(spec: OptimizerSpec, lr: float) -> Finding:
    """Check that a step leaves the gradients as they are."""
    if spec.closure:
        return Finding("not applicable", "the closure computes gradients again")
    trial = Trial(spec, lr).train(1)
    trial.gradients()
    before = {name: param.grad.clone() for name, param in trial.model.named_parameters()}
    trial.step()
    for name, param in trial.model.named_parameters():
        if param.grad is None or not torch.equal(param.grad, before[name]):
            return Finding("no", f"a step changes them, for example that of {name}")
    return Finding("yes")


def state(spec: OptimizerSpec, lr: float) -> Finding:
    """Count the bytes of state a parameter."""
    trial = Trial(spec, lr).train(2)
    return Finding("yes", f"{state_bytes(trial.optimizer) / trial.weights().numel():.2f} bytes")


def resumes(spec: OptimizerSpec, lr: float) -> Finding:
    """Check that training goes on bit for bit from a checkpoint that holds no code."""
    whole = Trial(spec, lr).train(_HALF)
    switch_mode(whole.optimizer, train=False)  # as a run does when it saves
    wrapper = nn.ModuleDict({"model": whole.model})
    named = by_name(whole.optimizer.state_dict(), wrapper, whole.optimizer)
    file = io.BytesIO()
    saved = {"model": whole.model.state_dict(), "optimizer": named, "rng": rng_states()}
    torch.save(saved, file)
    switch_mode(whole.optimizer, train=True)
    expected = whole.train(_HALF).weights()

    file.seek(0)
    try:
        loaded = torch.load(file, weights_only=True)
    except UnpicklingError:
        file.seek(0)
        refused = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        return Finding("no", f"weights_only=True does not load what its state contains: {refused}")
    again = Trial(spec, lr, seed=1)
    switch_mode(again.optimizer, train=False)
    again.model.load_state_dict(loaded["model"])
    numbered = by_number(loaded["optimizer"], nn.ModuleDict({"model": again.model}))
    again.optimizer.load_state_dict(numbered)
    restore_rng_states(loaded["rng"])
    switch_mode(again.optimizer, train=True)
    return _same_bits(again.train(_HALF).weights(), expected, "a resumed run")


def deterministic(spec: OptimizerSpec, lr: float) -> Finding:
    """Check that two runs with one seed give the same bits."""
    first, second = (Trial(spec, lr).train(2 * _HALF).weights() for _ in range(2))
    return _same_bits(second, first, "a second run with the same seed")


def modes(spec: OptimizerSpec, lr: float) -> Finding:
    """Check that a switch to evaluation and back leaves training as it was."""
    whole = Trial(spec, lr)
    if not has_modes(whole.optimizer):
        return Finding("not applicable", "it has no methods train and eval")
    expected = whole.train(2 * _HALF).weights()
    trial = Trial(spec, lr)
    start = trial.weights()
    training = trial.train(_HALF).weights()
    switch_mode(trial.optimizer, train=False)
    evaluated = trial.weights()
    switch_mode(trial.optimizer, train=False)
    if not torch.equal(trial.weights(), evaluated):
        return Finding("no", "a second call of eval changes the weights again")
    switch_mode(trial.optimizer, train=True)
    part = difference(trial.weights(), training, start)
    if not part <= _ROUNDING:
        return Finding("no", f"eval and train move the weights by {part:.1%} of their way so far")
    part = difference(trial.train(_HALF).weights(), expected, start)
    if not part <= _ROUNDING:
        return Finding("no", f"after eval and train, training ends {part:.1%} of the way apart")
    moved = difference(evaluated, training, start)
    return Finding("yes", f"evaluated {moved:.1%} of their way from the training weights")


def nan(spec: OptimizerSpec, lr: float) -> Finding:
    """Tell what a step on gradients of NaN does."""
    if spec.closure:
        return Finding("not applicable", "the closure computes gradients again")
    trial = Trial(spec, lr).train(1)
    trial.gradients()
    before = trial.weights()
    for param in trial.model.parameters():
        param.grad.fill_(math.nan)
    trial.step()
    after = trial.weights()
    if torch.equal(after, before):
        return Finding("yes", "the step is skipped")
    return Finding("yes", f"{after.isnan().float().mean():.0%} of weights NaN")


_CHECKS: dict[str, Callable[[OptimizerSpec, float], Finding]] = {
    "imports": imports,
    "gradients": gradients,
    "state": state,
    "resumes": resumes,
    "modes": modes,
    "deterministic": deterministic,
    "nan": nan,
}
MANNERS = ("imports", "learns", "gradients", "state", "resumes", "modes", "deterministic", "nan")


def difference(weights: Tensor, expected: Tensor, start: Tensor) -> float:
    """Return the distance of two vectors of weights, as a part of the way from the start."""
    apart = (weights - expected).norm().item()
    return apart and apart / (expected - start).norm().item()


def _same_bits(weights: Tensor, expected: Tensor, subject: str) -> Finding:
    different = (weights != expected).float().mean().item()
    if different:
        return Finding("no", f"{subject} differs in {different:.1%} of the weights")
    return Finding("yes")


def guarded(spec: OptimizerSpec, check: Callable[[], Finding]) -> Finding:
    """Return the finding of a check; an error of the optimizer's is its `no`."""
    try:
        return check()
    except (Exception, SystemExit) as error:
        return Finding("no", f"it raises {describe(error, *spec.classes)}")


def check_manners(
    spec: OptimizerSpec, names: Iterable[str] = MANNERS, lr: float = DEFAULT_LR
) -> tuple[float, dict[str, Finding]]:
    """Run checks in one process; there are no more once the optimizer cannot be made.

    Args:
        spec: the optimizer.
        names: the checks, of MANNERS.
        lr: its learning rate, unless the check `learns` finds one.

    Returns:
        A learning rate at which the optimizer learns, and the findings.
    """
    found: dict[str, Finding] = {}
    for name in names:
        if name == "learns":
            lr, found[name] = best_lr(spec)
        else:
            found[name] = guarded(spec, lambda check=_CHECKS[name], lr=lr: check(spec, lr))
        if name == "imports" and found[name].answer == "no":
            break
    return lr, found
