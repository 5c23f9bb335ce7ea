"""Optimizers with modes are evaluated at the right weights; those with a closure get one."""

from importlib.util import find_spec

import pandas as pd
import pytest
import torch

from experiments.corpus.batches import TokenBatches
from experiments.models.build import build_model
from experiments.optimizers.import_class import import_object
from experiments.optimizers.settings import OptimizerSpec
from experiments.settings import ConfigError
from experiments.training.learning_rate import lr_factor
from experiments.training.parallel import Parallel
from experiments.training.train import train
from tests.conftest import train_until_power_cut
from tests.experiments import optimizers_that_switch as switching

TIMES = ["step_seconds", "optimizer_seconds"]
AUTHORS = pytest.param(
    "schedulefree.AdamWScheduleFree",
    {"lr": 0.05, "schedule": "constant"},
    marks=pytest.mark.skipif(not find_spec("schedulefree"), reason="needs the extra field"),
)
MODES = [
    (f"{switching.__name__}.ScheduleFree", {}),
    (f"{switching.__name__}.ScheduleFreeWithAttribute", {}),
    AUTHORS,
]
SAM = f"{switching.__name__}.Sam"
LBFGS = "torch.optim.LBFGS"


@pytest.fixture
def run_of(tiny_plan):
    """Return a function that makes a tiny run with a class."""

    def make(path, closure=False, **training):
        optimizer = OptimizerSpec(name="mine", class_path=path, args={}, closure=closure)
        training = {"weight_decay": 0.0, "lr": 0.5} | training
        return tiny_plan(**training)[0].spec.model_copy(update={"optimizer": optimizer})

    return make


def metrics(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns=TIMES)


class PlainLoop:
    """A training loop written out, which steps an optimizer as its authors say."""

    def __init__(self, run, corpus):
        self.settings, self.seed = run.training, run.seed
        self.model = build_model(run.model, run.seed)
        self.batches = TokenBatches(corpus, run.training.context)
        params = self.model.parameters()
        self.optimizer = import_object(run.optimizer.class_path)(params, lr=run.training.lr)

    def gradients(self, step):
        self.model.zero_grad()
        loss = self.model(*self.batches.train(self.seed, step, self.settings.batch_size))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip_norm)
        return loss.detach()

    @torch.no_grad()
    def val_loss(self, starts):
        return self.model(*self.batches.val_windows(starts)).item()

    def set_lr(self, step):
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * lr_factor(step + 1, self.settings)


@pytest.mark.parametrize(("path", "training"), MODES)
def test_a_schedule_free_run_equals_a_loop_that_switches_by_hand(
    run_of, tiny_corpus, tmp_path, path, training
):
    run = run_of(path, val_sequences=4, **training)
    train(run, tiny_corpus, tmp_path)
    loop = PlainLoop(run, tiny_corpus)
    curve, stream = loop.batches.curve_starts(4), loop.batches.final_starts(None)
    loop.optimizer.train()
    losses, at_training_weights = [], []
    for step in range(run.training.steps):
        loop.set_lr(step)
        loop.gradients(step)
        loop.optimizer.step()
        if (step + 1) % run.training.val_every == 0:
            at_training_weights.append(loop.val_loss(curve))
            loop.optimizer.eval()
            losses.append(loop.val_loss(curve))
            final = loop.val_loss(stream)
            loop.optimizer.train()
    found = metrics(tmp_path)["val_loss"].dropna().tolist()
    assert found == pytest.approx(losses, abs=1e-6)
    assert found != pytest.approx(at_training_weights, abs=1e-4)  # so the modes matter here
    assert metrics(tmp_path)["final_val_loss"].iloc[-1] == pytest.approx(final, abs=1e-6)
    assert final != pytest.approx(loop.val_loss(stream), abs=1e-4)


@pytest.mark.parametrize(
    ("path", "training"),
    # Twenty evaluations in a step of LBFGS magnify differences of rounding.
    [(SAM, {"lr": 0.1, "micro_batch_size": 2}), (LBFGS, {"lr": 1e-2})],
)
def test_a_run_with_a_closure_equals_a_loop_with_one(run_of, tiny_corpus, tmp_path, path, training):
    run = run_of(path, closure=True, **training)
    train(run, tiny_corpus, tmp_path)
    loop = PlainLoop(run, tiny_corpus)
    losses = []
    for step in range(run.training.steps):
        loop.set_lr(step)
        losses.append(loop.gradients(step).item())
        with torch.enable_grad():
            loop.optimizer.step(torch.enable_grad()(lambda step=step: loop.gradients(step)))
    assert metrics(tmp_path)["train_loss"].tolist() == pytest.approx(losses, abs=1e-3)
    assert losses[-1] < losses[0]


# With a larger lr, LBFGS diverges on some CPUs.
@pytest.mark.parametrize(("path", "training"), [*MODES, (SAM, {}), (LBFGS, {"lr": 1e-2})])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    run_of, tiny_corpus, tmp_path, path, training
):
    run = run_of(path, path in (SAM, LBFGS), **training)
    train(run, tiny_corpus, tmp_path / "whole")
    train_until_power_cut(run, tiny_corpus, tmp_path / "cut")
    train(run, tiny_corpus, tmp_path / "cut")
    pd.testing.assert_frame_equal(
        metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), check_exact=True
    )


def test_a_closure_needs_one_process(run_of):
    message = "parallel: a run has 2 processes, but it must have one: the closure that mine needs"
    with pytest.raises(ConfigError, match=message):
        Parallel(tasks_per_node=2).check(run_of(SAM, closure=True), ("parallel",))
