"""Tables that need no trained run: optimizer state, hyperparameters and parallel layouts."""

import json

import pandas as pd

from analysis.frames import Results, read_table
from analysis.papers.numbers import load_paper
from analysis.tables.cells import Table
from analysis.text import number

_PARALLELISM = ["devices", "dp", "tp", "pp", "ep"]
_LABELS = {"adamw": "AdamW", "powerstep-int8": "PowerStep int8"}
_SETTINGS = ["dataset", "batch_size", "context", "lr", "steps"]
_TRAINING = ["warmup_steps", "weight_decay", "grad_clip_norm", "min_lr_ratio", "schedule"]


def state_memory_per_device(results: Results) -> Table:
    """Return table 1: optimizer state per device in MiB, for each model of the paper's table.

    For mixture-of-experts models the paper's values match a count of the routed experts alone. Our
    value is counted in this way; the count of the whole model follows in brackets.
    """
    published = load_paper()["state_mib_per_device"]
    memory = read_table(results.folder / "memory.csv")
    numbers = memory[memory["model"].isin(published)].copy()
    numbers["paper"] = [published[row.model].get(row.optimizer) for row in numbers.itertuples()]
    columns = {}
    for model, of_model in numbers.groupby("model", sort=False):
        cells = of_model.set_index("optimizer")
        as_paper, whole = (
            cells[column].map("{:.1f}".format)
            for column in ("mib_per_device_as_paper", "mib_per_device")
        )
        columns[f"{model}, paper"] = cells["paper"].map("{:.1f}".format, na_action="ignore")
        both = as_paper.where(as_paper == whole, as_paper + " [" + whole + "]")
        columns[f"{model}, ours"] = both.where(cells["mib_per_device"].notna())
    labels = numbers.drop_duplicates("optimizer").set_index("optimizer")["label"]
    shown = pd.DataFrame(columns, index=labels.index)
    return numbers, shown.set_index(pd.Index(labels, name="optimizer"))


def hyperparameters(results: Results) -> Table:
    """Return table 2: the hyperparameters of the plan's models and of the paper's.

    The settings that a model's optimizers share come first. Beneath them is a row for each
    optimizer that has settings of its own, with those alone.
    """
    names = [*_SETTINGS, *_TRAINING]
    runs = results.runs.drop(columns=["lr", "steps"])
    runs = runs.rename(columns={"shared_lr": "lr", "planned_steps": "steps"})
    plan = runs.drop_duplicates("model").set_index("model")
    ours = pd.DataFrame(
        [dict(row[names]) | _parsed(row["shared"]) for _, row in plan.iterrows()], index=plan.index
    )
    published = load_paper()
    paper = pd.DataFrame(published["models"]).T[_SETTINGS].assign(**published["training"])
    numbers = ours.join(paper.add_suffix("_paper"), how="outer")
    numbers = numbers.loc[[*ours.index, *paper.index.difference(ours.index, sort=False)]]
    numbers = _with_own(numbers.reset_index(names="model"), runs)
    shown = pd.DataFrame(
        {
            name: [
                _both(ours_, paper_)
                for ours_, paper_ in zip(
                    numbers[name], numbers.get(f"{name}_paper", [None] * len(numbers)), strict=True
                )
            ]
            for name in names
        },
        index=pd.Index(numbers["model"] + (", " + numbers["optimizer"]).fillna(""), name="model"),
    )
    return numbers, shown


def _with_own(numbers: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Add a row beneath a model for each optimizer with settings of its own, and its label."""
    deviating = [
        {"model": row.model, "optimizer": row.label} | own
        for row in runs.drop_duplicates(["model", "optimizer"]).itertuples()
        if (own := _parsed(row.own))
    ]
    numbers.insert(1, "optimizer", None)
    order = {name: position for position, name in enumerate(numbers["model"])}
    rows = [*numbers.to_dict("records"), *deviating]
    rows.sort(key=lambda row: order[row["model"]])
    return pd.DataFrame(rows, columns=numbers.columns, dtype=object)


def _parsed(settings: object) -> dict[str, object]:
    """Return a cell of the columns `shared` and `own` of a plan; an empty one has no settings."""
    return json.loads(settings) if isinstance(settings, str) and settings else {}


def layouts(results: Results) -> Table:
    """Return table 3: the devices of each published model, and its degrees of parallelism.

    The last columns are the optimizer state per device in MiB if every data-parallel replica of the
    model holds all of it.
    """
    counted = read_table(results.folder / "memory.csv")
    state = counted.pivot(index="model", columns="optimizer", values="mib_per_device_replicated")
    state = state.reindex(columns=list(_LABELS))
    memory = counted.drop_duplicates("model").set_index("model")
    paper = pd.DataFrame(load_paper()["models"]).T[_PARALLELISM]
    ours = memory.loc[[name for name in paper.index if name in memory.index]]
    ours = ours.assign(dp=ours["devices"] // (ours["tp"] * ours["pp"]))
    numbers = ours[["parameters", *_PARALLELISM]].join(paper.add_suffix("_paper"))
    shown = pd.DataFrame({"parameters": numbers["parameters"].map("{:,}".format)})
    for name in _PARALLELISM:
        shown[name] = [
            _both(a, b) for a, b in zip(numbers[name], numbers[f"{name}_paper"], strict=True)
        ]
    for optimizer, label in _LABELS.items():
        numbers[f"{label}_mib"] = state[optimizer]
        shown[f"{label} (MiB)"] = state[optimizer].map("{:,.1f}".format, na_action="ignore")
    return numbers.reset_index(), shown


def _both(ours: object, paper: object) -> str | None:
    """Return our value as text, followed by the paper's in brackets if it differs."""
    if pd.isna(ours):
        return None if pd.isna(paper) else f"[{_shown(paper)}]"
    return _shown(ours) + (f" [{_shown(paper)}]" if not pd.isna(paper) and paper != ours else "")


def _shown(value: object) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)
