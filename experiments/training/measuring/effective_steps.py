"""The Lightning callback that logs the effective steps of PowerStep and Adam during training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L

from experiments.plan.spec import RunSpec
from experiments.runs.effective_steps import (
    ALL,
    BETA,
    COMPARISONS_FILE,
    GAMMA,
    HISTOGRAMS_FILE,
    QUANTITIES,
    ROUNDING_FILE,
    write_rows,
)
from experiments.training.measuring.distributions import (
    comparison,
    histograms,
    rounding_errors,
)
from experiments.training.measuring.shadow import FORMATS, Shadow
from experiments.training.parallel import Parallel

_LOGGED = 50  # times a run, besides the powers of two
_COMPARED = (0.1, 0.5, 1.0)  # fractions of a run after which the costly comparisons are made
_KEPT = 16  # steps over which rounding errors accumulate; earlier ones have faded to γ^16


def effective_steps(spec: RunSpec, folder: Path, parallel: Parallel) -> list["EffectiveSteps"]:
    """Return the callback of a run; none if its parameters are sharded over processes."""
    if parallel.processes > 1 and parallel.strategy != "ddp":
        print("effective steps are not logged, because the parameters are sharded", flush=True)
        return []
    return [EffectiveSteps(spec, folder)]


class EffectiveSteps(L.Callback):
    """Logs the distributions of PowerStep's momentum and Adam's moments on a run's gradients.

    Both states are kept in shadow, whatever the run's own optimizer is, so training is the same as
    without. The files of experiments.runs.effective_steps are written at the end. A checkpoint
    holds the rows and the states, so a resumed run logs the same.

    Args:
        spec: the run. γ and β are those of its optimizer if it is PowerStep, else 0.9 and 0.1.
        folder: folder of the three files.
    """

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        self._folder = folder
        args = spec.optimizer.args if spec.optimizer.class_path == "powerstep.PowerStep" else {}
        self._gamma, self._beta = args.get("gamma", GAMMA), args.get("beta", BETA)
        steps = spec.training.steps
        self._compared = {max(1, round(part * steps)) for part in _COMPARED}
        self._every = -(-steps // _LOGGED)
        self._rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in (HISTOGRAMS_FILE, COMPARISONS_FILE, ROUNDING_FILE)
        }
        self._shadow: Shadow | None = None
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the states, for the checkpoint."""
        return {"rows": self._rows, "shadow": self._shadow and self._shadow.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the rows and the states of a checkpoint until training starts."""
        self._rows, self._loaded = state_dict["rows"], state_dict["shadow"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with zero states, or with those of the checkpoint."""
        self._shadow = Shadow(pl_module.model.named_parameters(), self._gamma)
        if self._loaded:
            self._shadow.load_state_dict(self._loaded)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object
    ) -> None:
        """Take in the clipped gradients, which the optimizer has just used, and log."""
        shadow, step = self._shadow, trainer.global_step
        shadow.update()
        is_power_of_two = step & (step - 1) == 0
        is_logged = is_power_of_two or step % self._every == 0 or step in self._compared
        if is_logged and not shadow.momentum.isfinite().all():  # the run has diverged
            return
        if is_logged:
            self._log_histograms(step)
        if step in self._compared:
            self._log_comparisons(step)
            self._log_rounding(step)
            shadow.kept, shadow.used = {}, {}
        if not shadow.kept and any(0 < at - step <= _KEPT for at in self._compared):
            shadow.keep_rounded()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the files, after the peak memory has been measured."""
        for name, rows in self._rows.items():
            write_rows(self._folder / name, rows)

    def _log_histograms(self, step: int) -> None:
        shadow = self._shadow
        values = [getattr(shadow, name) for name in QUANTITIES]
        values[1] *= shadow.exp_avg_sq > 0  # without any gradient yet, it is ε and no step
        for quantity, value in zip(QUANTITIES, values, strict=True):
            key = {"step": step, "quantity": quantity}
            self._rows[HISTOGRAMS_FILE] += [key | row for row in histograms(value, shadow.layers)]

    def _log_comparisons(self, step: int) -> None:
        values = [getattr(self._shadow, name) for name in QUANTITIES]
        for layer, part in self._layers().items():
            compared = comparison(*(value[part] for value in values), self._gamma, self._beta)
            if compared:
                self._rows[COMPARISONS_FILE].append({"step": step, "layer": layer} | compared)

    def _log_rounding(self, step: int) -> None:
        exact = self._shadow.momentum
        for name, bits in FORMATS.items():
            once = self._shadow.in_format(exact, bits)
            for rounded, is_accumulated in ((once, False), (self._shadow.used.get(name), True)):
                if rounded is None:  # the run is too short
                    continue
                for layer, part in self._layers().items():
                    key = {"step": step, "layer": layer, "format": name}
                    errors = rounding_errors(exact[part], rounded[part], self._beta)
                    row = key | {"accumulated": is_accumulated} | errors
                    self._rows[ROUNDING_FILE].append(row)

    def _layers(self) -> dict[str, slice]:
        return {ALL: slice(None)} | self._shadow.layers
