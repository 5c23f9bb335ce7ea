"""Tables of effective steps and of rounding errors, from what runs have logged."""

import pandas as pd

from analysis.estimates.effective_steps import at_fractions, quantiles, read_logged
from analysis.frames import Results
from analysis.tables.cells import Table
from experiments.runs.effective_steps import COMPARISONS_FILE, ROUNDING_FILE

_KEYS = ["run", "step", "layer"]
_SHOWN = ["model", "optimizer", "layer"]


def effective_steps(results: Results) -> Table:
    """Return quantiles of both effective steps.

    Shown are PowerStep's at the end of training, as means over the seeds.
    """
    rows = read_logged(results)
    if rows.empty:
        return _without_runs()
    numbers = pd.concat(
        [quantiles(rows, of).assign(of=of) for of in ("powerstep", "adamw")], ignore_index=True
    )
    compared = read_logged(results, COMPARISONS_FILE)
    ends = at_fractions(numbers[numbers["of"] == "powerstep"], [1.0]).merge(
        compared[[*_KEYS, "spearman", "log_ratio_iqr"]], on=_KEYS, how="left"
    )
    shares = {
        "median D/η": ends[0.5],
        "q99.9/median": ends[0.999] / ends[0.5],
        "max/median": ends[1.0] / ends[0.5],
        "zeros": ends["zeros"] / ends["count"],
        "rank correlation": ends["spearman"],
        "IQR of log10 ratio": ends["log_ratio_iqr"],
    }
    means = ends[_SHOWN].assign(**shares).groupby(_SHOWN, sort=False).mean().reset_index()
    digits = dict(zip(shares, ["{:.3g}"] * 3 + ["{:.1%}"] + ["{:.2f}"] * 2, strict=True))
    for name, digit in digits.items():
        means[name] = means[name].map(digit.format, na_action="ignore")
    return numbers, means.rename(columns={"optimizer": "run of"}).set_index("layer")


def rounding(results: Results) -> Table:
    """Return the errors of rounding; shown are those at the end of PowerStep's runs, as means."""
    numbers = read_logged(results, ROUNDING_FILE)
    if numbers.empty:
        return _without_runs()
    ends = at_fractions(numbers[numbers["optimizer"] == "powerstep"], [1.0])
    keys = ["model", "layer", "format"]
    once, kept = (
        ends[ends["accumulated"] == flag].groupby(keys, sort=False).mean(numeric_only=True)
        for flag in (False, True)
    )
    both = once.join(kept.add_suffix("_kept")).reset_index()
    shown = both[["model", "format"]].copy()
    for column, name in (
        ("m_error", "error of m"),
        ("u_error", "error of u"),
        ("sign_flips", "flipped signs"),
        ("zero_codes", "become 0"),
    ):
        shown[name] = (
            both[column].map("{:.2%}".format)
            + " / "
            + both[f"{column}_kept"].map("{:.2%}".format, na_action="ignore").fillna("–")
        )
    return numbers, shown.set_index(pd.Index(both["layer"], name="layer"))


def _without_runs() -> Table:
    return pd.DataFrame({"run": []}), pd.DataFrame(index=pd.Index([], name="layer"))
