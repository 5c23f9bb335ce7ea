"""The figures and tables of a plan, and the planned runs that each of them shows.

This is the only list of their names. The Snakefile reads it for the targets and their inputs, the
analysis for the drawing functions and their runs. It takes plain rows of a plan
(experiments.plan.spec.PlannedRun.row), and imports neither torch nor pandas: planning is fast.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase

from analysis import captions
from analysis.rows import Row, by, unique, where, with_sweep
from experiments.settings import ConfigError

# Experiments of the paper that have one figure for each model: the figure's number and subject.
_BY_MODEL = {
    "comparison": (2, "The optimizers at the shared learning rate"),
    "quantization": (4, "Optimizer state in fp32 and in int8"),
    "large_scale": (5, "AdamW with fp32 state and PowerStep with int8 state"),
    "stacey": (7, "PowerStep and Stacey(p,2)"),
}
_SWEPT = 3  # learning rates of an experiment from which it is a sweep
_KNOWN = {*_BY_MODEL, "sensitivity", "learning_rate", "effective_steps"}


@dataclass(frozen=True)
class Artefact:
    """A figure or a table.

    Args:
        name: name of its files, without a suffix.
        kind: name of the function in analysis.figures or analysis.tables that makes it.
        caption: its caption, with the number of the paper's figure or table.
        rows: the planned runs it shows.
        needs: further files it reads, by their names in `results/`.
        trained: whether it shows results of runs; if False, it shows their settings alone.
    """

    name: str
    kind: str
    caption: str
    rows: tuple[Row, ...] = ()
    needs: tuple[str, ...] = ()
    trained: bool = True


def figures(plan: Iterable[Row]) -> dict[str, Artefact]:
    """Return every figure of a plan by name: the paper's figures in its order, then ours."""
    plan = [*plan]
    found = [
        Artefact("fig1", "transform", captions.TRANSFORM),
        *_ladder(plan, "ladder"),
        *_each_model(plan, "comparison"),
        *_sensitivity(plan),
        *_each_model(plan, "quantization"),
        *_each_model(plan, "large_scale"),
        *_learning_rates(plan),
        *_each_model(plan, "stacey"),
        *_beyond_the_paper(plan),
        *_effective_steps(plan),
        Artefact("paper_gap", "paper_gap", captions.PAPER_GAP),
        Artefact("state_memory", "state_memory", captions.STATE_MEMORY, needs=("memory.csv",)),
        Artefact(
            "convergence",
            "convergence",
            captions.CONVERGENCE,
            needs=("convergence.csv", "convergence_fits.csv"),
        ),
    ]
    return _by_name(found)


def tables(plan: Iterable[Row]) -> dict[str, Artefact]:
    """Return every table of a plan by name: the paper's tables in its order, then ours."""
    plan = [*plan]
    found = [
        *_ladder(plan, "ladder", "trend"),
        Artefact("table1", "state_memory_per_device", captions.TABLE_1, needs=("memory.csv",)),
        Artefact("table2", "hyperparameters", captions.TABLE_2, tuple(plan), trained=False),
        Artefact("table3", "layouts", captions.TABLE_3, needs=("memory.csv",)),
        *_losses(plan, "table4", "comparison", "(table 4)"),
        *_losses(plan, "table5", "quantization", "with quantised optimizer state (table 5)"),
        *_losses(
            plan,
            "table6",
            "large_scale",
            "for the model families of the paper's large models (table 6)",
        ),
        Artefact("paper_gap", "paper_gap", captions.PAPER_GAP_TABLE, trained=False),
        *_losses(plan, "stacey", "stacey", "with Stacey(p,2) as the baseline (figure 7)"),
        *_table(
            plan,
            "sensitivity",
            "loss_by_value",
            "Final validation loss by value of the varied argument (figure 3)",
        ),
        *_table(plan, "learning_rate", "loss_by_lr", "Final validation loss by learning rate"),
    ]
    for name in unique(plan, "experiment"):
        if name not in {*_KNOWN, "low_memory"}:
            found += _losses(plan, f"loss_{name}", name, f"in the experiment {name}")
    found += _own_rates(plan)
    if rows := where(plan, experiment="low_memory"):
        caption = captions.loss_and_cost(rows)
        found.append(Artefact("low_memory", "loss_and_cost", caption, tuple(rows)))
    if rows := where(plan, experiment="effective_steps"):
        found += [
            Artefact("effective_steps", "effective_steps", captions.EFFECTIVE_TABLE, tuple(rows)),
            Artefact("rounding", "rounding", captions.ROUNDING_TABLE, tuple(rows)),
        ]
    if rows := with_sweep(plan, "comparison"):
        found += [
            Artefact("cost", "cost", captions.COST, tuple(rows)),
            Artefact("time_to_target", "time_to_target", captions.TIME_TO_TARGET, tuple(rows)),
        ]
    return _by_name(found)


def _by_name(found: list[Artefact]) -> dict[str, Artefact]:
    """Return artefacts by name.

    Raises:
        ConfigError: two would have the same files. Names that differ in case alone count as the
            same, because some file systems ignore case.
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
                f"has {model!r}, but files named {artefact.name} already belong to"
                f" {first_model!r} in experiments.{first}: rename one of the two",
            )
    return {artefact.name: artefact for artefact in found}


def _ladder(plan: list[Row], *kinds: str) -> list[Artefact]:
    """Return figures or tables of the gap over model size; none without a ladder."""
    rows = [row for row in plan if row["rung"] and row["experiment"] in ("learning_rate", "tokens")]
    texts = {"ladder": captions.LADDER, "trend": captions.TREND}
    return [Artefact(kind, kind, texts[kind], tuple(rows)) for kind in kinds if rows]


def _each_model(plan: list[Row], experiment: str) -> list[Artefact]:
    """Return the figures of an experiment, lettered a, b, … by model."""
    number, subject = _BY_MODEL[experiment]
    return _lettered(
        number,
        [
            (f"{subject}: {model} (figure {number})", rows)
            for model, rows in by(where(plan, experiment=experiment), "model")
        ],
    )


def _sensitivity(plan: list[Row]) -> list[Artefact]:
    """Return figure 3, lettered a, b, … by model and varied argument."""
    return _lettered(
        3,
        [
            (f"Sensitivity to {argument}: {model} (figure 3)", rows)
            for model, of_model in by(where(plan, experiment="sensitivity"), "model")
            for argument, rows in by(of_model, "argument")
        ],
    )


def _learning_rates(plan: list[Row]) -> list[Artefact]:
    """Return figure 6, lettered a, b, … by model and optimizer."""
    return _lettered(
        6,
        [
            (
                f"{label} by learning rate: {model} (figure 6 shows AdamW and PowerStep)",
                rows,
            )
            for model, of_model in by(where(plan, experiment="learning_rate"), "model")
            for label, rows in by(of_model, "label")
        ],
    )


def _lettered(number: int, subjects: list[tuple[str, list[Row]]]) -> list[Artefact]:
    return [
        Artefact(
            f"fig{number}{_letters(i)}",
            "loss_curves",
            f"{subject}. {captions.lines(rows)}",
            tuple(rows),
        )
        for i, (subject, rows) in enumerate(subjects)
    ]


def _beyond_the_paper(plan: list[Row]) -> list[Artefact]:
    """Return figures that the paper does not have, and curves of the user's experiments."""
    found = []
    for model, rows in by(where(plan, experiment="learning_rate"), "model"):
        found.append(
            Artefact(
                f"lr_{model}",
                "loss_over_lr",
                captions.loss_over_lr(model, rows),
                tuple(rows),
            )
        )
    both = with_sweep(plan, "comparison", "quantization")
    for model, rows in by(where(plan, experiment="comparison"), "model"):
        found += [
            Artefact(
                f"cost_{model}",
                "loss_over_cost",
                captions.loss_over_cost(model, rows),
                tuple(rows),
            ),
            _trade_off(f"tradeoff_{model}", model, where(both, model=model)),
        ]
    found += [
        _trade_off(f"low_memory_{model}", model, rows)
        for model, rows in by(where(plan, experiment="low_memory"), "model")
    ]
    for name in unique(plan, "experiment"):
        if name not in _KNOWN:
            found += [
                Artefact(
                    f"loss_{name}_{model}",
                    "loss_curves",
                    f"Experiment {name}: {model}. {captions.lines(rows)}",
                    tuple(rows),
                )
                for model, rows in by(where(plan, experiment=name), "model")
            ]
    return found


def _effective_steps(plan: list[Row]) -> list[Artefact]:
    """Return the figures of effective steps, for each model whose runs log them."""
    kinds = {
        "effective_steps": captions.EFFECTIVE_STEPS,
        "effective_tails": captions.EFFECTIVE_TAILS,
        "effective_joint": captions.EFFECTIVE_JOINT,
        "displacements": captions.DISPLACEMENTS,
        "rounding": captions.ROUNDING,
    }
    return [
        Artefact(f"{kind}_{model}", kind, f"{model}. {caption}", tuple(rows))
        for model, rows in by(where(plan, experiment="effective_steps"), "model")
        for kind, caption in kinds.items()
    ]


def _trade_off(name: str, model: str, rows: list[Row]) -> Artefact:
    caption = captions.loss_over_state(model, rows)
    return Artefact(name, "loss_over_state", caption, tuple(rows))


def _losses(plan: list[Row], name: str, experiment: str, subject: str) -> list[Artefact]:
    """Return the table of an experiment's final losses; none if the experiment is not planned."""
    rows = with_sweep(plan, experiment)
    caption = captions.loss_by_optimizer(subject)
    return [Artefact(name, "loss_by_optimizer", caption, tuple(rows))] if rows else []


def _own_rates(plan: list[Row]) -> list[Artefact]:
    """Return a table for each experiment that sweeps the learning rate beside something else."""
    found = []
    for name in unique(plan, "experiment"):
        rows = where(plan, experiment=name)
        swept = len({row["lr"] for row in rows if not row["extension"]}) >= _SWEPT
        if swept and name != "learning_rate":
            caption = captions.own_rates(name, rows)
            found.append(Artefact(f"own_lr_{name}", "loss_at_own_lr", caption, tuple(rows)))
    return found


def _table(plan: list[Row], experiment: str, kind: str, subject: str) -> list[Artefact]:
    rows = where(plan, experiment=experiment)
    caption = f"{subject}, {captions.seeds(rows)}."
    return [Artefact(experiment, kind, caption, tuple(rows))] if rows else []


def _letters(number: int) -> str:
    """Return the letters of the figure at an index: a, b, … z, aa, ab, …."""
    first, last = divmod(number, 26)
    return (ascii_lowercase[first - 1] if first else "") + ascii_lowercase[last]
