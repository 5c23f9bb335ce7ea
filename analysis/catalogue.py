"""Which figures and tables a plan gives, and which of its runs each of them shows.

The one list of their names: the Snakefile asks it what to make and what that needs, the analysis
asks it what to draw. It reads plain rows (PlannedRun.row) and imports neither
torch nor pandas, so that planning stays quick.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from experiments.settings import ConfigError

Row = dict[str, Any]

# Where an experiment of the paper, by its name in a profile, shows one model in each figure.
_BY_MODEL = {
    "comparison": (2, "The optimizers at one learning rate"),
    "quantization": (4, "Optimizer state in fp32 and in int8"),
    "large_scale": (5, "AdamW with fp32 state and PowerStep with int8 state"),
    "stacey": (7, "PowerStep and Stacey(p,2)"),
}
_KNOWN = {*_BY_MODEL, "sensitivity", "learning_rate"}


@dataclass(frozen=True)
class Artefact:
    """A figure or a table.

    Args:
        name: of its files.
        kind: what makes it: the name of a function in analysis.figures or analysis.tables.
        caption: what it shows, and what it stands for in the paper.
        rows: the planned runs it shows.
        needs: files it reads beside them, by their names in `results/`.
        trained: whether it shows what the runs left behind, or what was planned.
    """

    name: str
    kind: str
    caption: str
    rows: tuple[Row, ...] = ()
    needs: tuple[str, ...] = ()
    trained: bool = True


def figures(plan: Iterable[Row]) -> dict[str, Artefact]:
    """Return every figure of a plan by its name, the paper's first and in its order."""
    plan = [*plan]
    found = [
        Artefact("fig1", "transform", "The signed power transform Φ_β of PowerStep (figure 1)."),
        *_each_model(plan, "comparison"),
        *_sensitivity(plan),
        *_each_model(plan, "quantization"),
        *_each_model(plan, "large_scale"),
        *_learning_rates(plan),
        *_each_model(plan, "stacey"),
        *_beyond_the_paper(plan),
        Artefact(
            "state_memory",
            "state_memory",
            "Optimizer-state bytes per parameter at full size, counted on what each optimizer"
            " allocates for GPT-2 124M.",
            needs=("memory.csv",),
        ),
        Artefact(
            "convergence",
            "convergence",
            "Least expected squared gradient norm so far, over steps, on a noisy non-convex problem"
            " (claim 10), with η/√t: mean over 8 seeds.",
            needs=("convergence.csv",),
        ),
    ]
    return _by_name(found)


def tables(plan: Iterable[Row]) -> dict[str, Artefact]:
    """Return every table of a plan by its name, the paper's first and in its order."""
    plan = [*plan]
    found = [
        Artefact(
            "table1",
            "state_memory_per_device",
            "Optimizer state per device, in MiB, counted at full size (table 1). Of the mixtures of"
            " experts the routed experts alone count, as there; in brackets the whole model.",
            needs=("memory.csv",),
        ),
        Artefact(
            "table2",
            "hyperparameters",
            "Hyper-parameters by model (table 2); the paper's in brackets, where they are others.",
            tuple(plan),
            trained=False,
        ),
        Artefact(
            "table3",
            "layouts",
            "Devices by model, and how many of them share data (dp), tensors (tp), layers (pp) and"
            " experts (ep) between them (table 3); the optimizer state of a device where every copy"
            " of the model holds its own.",
            needs=("memory.csv",),
        ),
        *_losses(plan, "table4", "comparison", "(table 4)"),
        *_losses(plan, "table5", "quantization", "under quantised state (table 5)"),
        *_losses(plan, "table6", "large_scale", "of the large models' families (table 6)"),
        *_losses(plan, "stacey", "stacey", "beside Stacey(p,2) (figure 7)"),
        *_table(
            plan, "sensitivity", "loss_by_value", "Final validation loss by argument (figure 3)"
        ),
        *_table(plan, "learning_rate", "loss_by_lr", "Final validation loss by learning rate"),
    ]
    for name in _unique(plan, "experiment"):
        if name not in _KNOWN:
            found += _losses(plan, f"loss_{name}", name, f"of the experiment {name}")
    rows = _with_sweep(plan, "comparison")
    if rows:
        found += [
            Artefact("cost", "cost", "Measured cost of the comparison's runs.", tuple(rows)),
            Artefact(
                "time_to_target",
                "time_to_target",
                "Steps and tokens to AdamW's final validation loss with the same seed. Where runs"
                " ended without reaching it, > tells how far they came and how many they are.",
                tuple(rows),
            ),
        ]
    return _by_name(found)


def _by_name(found: list[Artefact]) -> dict[str, Artefact]:
    """Return artefacts by name, or raise a ConfigError where two would have the same files.

    Some file systems do not tell upper from lower case.
    """
    taken: dict[str, Artefact] = {}
    for artefact in found:
        other = taken.setdefault(artefact.name.casefold(), artefact)
        if other is not artefact:
            (experiment, model), (first, first_model) = (
                (row["experiment"], row["model"]) for row in (artefact.rows[0], other.rows[0])
            )
            raise ConfigError(
                ("experiments", experiment),
                f"has {model!r}, but files named {artefact.name} are those"
                f" of {first_model!r} in experiments.{first}: one of the names must be another",
            )
    return {artefact.name: artefact for artefact in found}


def _each_model(plan: list[Row], experiment: str) -> list[Artefact]:
    """Return the numbered figures of an experiment: a, b, … for its models."""
    number, subject = _BY_MODEL[experiment]
    return _lettered(
        number,
        [
            (f"{subject}: {model} (figure {number})", rows)
            for model, rows in _by(_where(plan, experiment=experiment), "model")
        ],
    )


def _sensitivity(plan: list[Row]) -> list[Artefact]:
    """Return figure 3: a, b, … for the varied arguments, and on for a further model."""
    return _lettered(
        3,
        [
            (f"Sensitivity to {argument}: {model} (figure 3)", rows)
            for model, of_model in _by(_where(plan, experiment="sensitivity"), "model")
            for argument, rows in _by(of_model, "argument")
        ],
    )


def _learning_rates(plan: list[Row]) -> list[Artefact]:
    """Return figure 6: a, b, … for the optimizers, and on for a further model."""
    return _lettered(
        6,
        [
            (f"Learning rates of {label}: {model} (figure 6, there AdamW and PowerStep)", rows)
            for model, of_model in _by(_where(plan, experiment="learning_rate"), "model")
            for label, rows in _by(of_model, "label")
        ],
    )


def _lettered(number: int, subjects: list[tuple[str, list[Row]]]) -> list[Artefact]:
    return [
        Artefact(
            f"fig{number}{_letters(i)}",
            "loss_curves",
            f"{subject}, {_lines(rows)}",
            tuple(rows),
        )
        for i, (subject, rows) in enumerate(subjects)
    ]


def _beyond_the_paper(plan: list[Row]) -> list[Artefact]:
    """Return what the paper leaves out, and the curves of experiments it does not have."""
    found = []
    for model, rows in _by(_where(plan, experiment="learning_rate"), "model"):
        found.append(
            Artefact(
                f"lr_{model}",
                "loss_over_lr",
                f"Final validation loss over learning rate: {model}, {_seeds(rows)}, with 95 %"
                " intervals where there are several. A ring marks an optimizer's best rate, a cross"
                " at the top one at which a run diverged.",
                tuple(rows),
            )
        )
    both = _with_sweep(plan, "comparison", "quantization")
    for model, rows in _by(_where(plan, experiment="comparison"), "model"):
        found += [
            Artefact(
                f"cost_{model}",
                "loss_over_cost",
                f"Validation loss over tokens and over training time: {model}, {_lines(rows)}",
                tuple(rows),
            ),
            Artefact(
                f"tradeoff_{model}",
                "loss_over_state",
                f"Final validation loss over optimizer-state bytes per parameter: {model}. Filled"
                " marks: the shared learning rate; open marks: each optimizer's own best. Bars are"
                " 95 % intervals over seeds.",
                tuple(_where(both, model=model)),
            ),
        ]
    for name in _unique(plan, "experiment"):
        if name not in _KNOWN:
            found += [
                Artefact(
                    f"loss_{name}_{model}",
                    "loss_curves",
                    f"Experiment {name}: {model}, {_lines(rows)}",
                    tuple(rows),
                )
                for model, rows in _by(_where(plan, experiment=name), "model")
            ]
    return found


def _losses(plan: list[Row], name: str, experiment: str, what: str) -> list[Artefact]:
    """Return the table of an experiment's final losses under both protocols, if it is planned."""
    rows = _with_sweep(plan, experiment)
    caption = (
        f"Final validation loss {what}, in nats per token: mean over seeds ± half the width of"
        " its 95 % interval. The shared learning rate is the paper's protocol; the own one, in"
        " brackets, is the best of as many values for each optimizer."
    )
    return [Artefact(name, "loss_by_optimizer", caption, tuple(rows))] if rows else []


def _table(plan: list[Row], experiment: str, kind: str, caption: str) -> list[Artefact]:
    rows = _where(plan, experiment=experiment)
    return [Artefact(experiment, kind, f"{caption}, {_seeds(rows)}.", tuple(rows))] if rows else []


def _with_sweep(plan: list[Row], *experiments: str) -> list[Row]:
    """Return experiments' rows, and those that tell their optimizers' best learning rates."""
    rows = [row for row in plan if row["experiment"] in experiments]
    pairs = {(row["model"], row["optimizer"]) for row in rows}
    sweep = _where(plan, experiment="learning_rate")
    return rows + [row for row in sweep if (row["model"], row["optimizer"]) in pairs]


def _where(rows: list[Row], **equal: str) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in equal.items())]


def _unique(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _by(rows: list[Row], key: str) -> list[tuple[Any, list[Row]]]:
    return [(value, _where(rows, **{key: value})) for value in _unique(rows, key)]


def _seeds(rows: list[Row]) -> str:
    n = len(_unique(rows, "seed"))
    return "one seed" if n == 1 else f"mean over {n} seeds"


def _lines(rows: list[Row]) -> str:
    """Say what the lines of a figure are."""
    band = ", bands are 95 % intervals" if len(_unique(rows, "seed")) > 1 else ""
    return f"{_seeds(rows)}{band}. A cross marks a divergence."


def _letters(number: int) -> str:
    """Return a, b, … z, aa, ab, …."""
    first, last = divmod(number, 26)
    return (ascii_lowercase[first - 1] if first else "") + ascii_lowercase[last]
