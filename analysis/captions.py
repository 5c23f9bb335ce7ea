"""Captions of figures and tables.

It imports no other module of this package, so that the catalogue may import it, and no pandas.
"""

from typing import Any

_Rows = list[dict[str, Any]]  # analysis.rows.Row

LADDER = (
    "Does the gap to AdamW grow with the size of the model? Each optimizer at its own best learning"
    " rate, fitted at each size, with 95 % intervals. A gap above 0 means that PowerStep ends with"
    " the higher loss. Grey points are the paper's own tables. A token ratio is AdamW's tokens over"
    " those that the optimizer needs for the same loss."
)
TREND = (
    "The trend of the gap over size. Extrapolations assume that the line goes on; they are no"
    " measurements."
)
TRANSFORM = "The signed power transform Φ_β of PowerStep (figure 1)."
STATE_MEMORY = (
    "Optimizer state in bytes per parameter, counted from the tensors that each optimizer allocates"
    " for GPT-2 124M at full size."
)
CONVERGENCE = (
    "Smallest mean squared gradient norm up to each step, on a noisy non-convex problem with step"
    " size η/√t (claim 10): means over 8 seeds."
)
TABLE_1 = (
    "Optimizer state per device in MiB, counted on the models at full size (table 1). For"
    " mixture-of-experts models only the routed experts count, as in the paper; the value for the"
    " whole model follows in brackets."
)
TABLE_2 = (
    "Hyperparameters by model (table 2). The paper's value follows in brackets where it differs,"
    " and stands alone for a model that only the paper trained."
)
TABLE_3 = (
    "Devices by model, and the degrees of data (dp), tensor (tp), pipeline (pp) and expert (ep)"
    " parallelism (table 3). The last columns give the optimizer state per device if every"
    " data-parallel replica of the model holds the whole state."
)
COST = (
    "Optimizer state, speed and peak memory, measured in the runs of the comparison: means over"
    " seeds."
)
TIME_TO_TARGET = (
    "Steps and tokens until a run reaches the final validation loss of AdamW with the same seed."
    " '> S in k of n' means that k of n runs ended without reaching it, and that the longest of the"
    " n ended after S steps or tokens."
)


PAPER_GAP_TABLE = (
    "PowerStep's final loss minus AdamW's in the paper's tables 4 (fp32 state) and 6 (int8 state),"
    " in nats per token. The token factor is the number of tokens with which AdamW would reach"
    " PowerStep's loss, relative to those it had, by Chinchilla's law (approximate)."
)
PAPER_GAP = (
    "PowerStep's final loss minus AdamW's in the paper's own tables, over model size. The line is"
    " fitted to table 4 (0.0158 ± 0.0021 nats per decade) with its 95 % band, dashed where it is"
    " extrapolated; table 6 has int8 state and another learning rate. Right: the tokens with which"
    " AdamW would reach PowerStep's loss, relative to those it had, by Chinchilla's law, which is"
    " approximate. Tokens per parameter fall from 198 to 1.3 in the order of the sizes, data and"
    " learning rate change twice, and each point is one seed."
)


_LEVELS = " Grey lines: the losses of a unigram and of a bigram model of the training tokens."

EFFECTIVE_STEPS = (
    "Effective step D of PowerStep, |m|^(β-1), and of AdamW, 1/(√v̂ + ε), in units of the learning"
    " rate, over the coordinates of each type of layer, in one run of each. Bands: 0.1 to 99.9, 5"
    " to 95 and 25 to 75 %; line: median; dotted: smallest and largest. Grey: PowerStep's lower"
    " bound with clipped gradients, and AdamW's upper bound 1/ε."
)
EFFECTIVE_TAILS = (
    "Share of coordinates whose effective step exceeds a multiple of the median, at 10, 50 and"
    " 100 % of training. Grey: the slope -1/(1-β) of a momentum whose density at 0 is positive."
)
EFFECTIVE_JOINT = (
    "Effective steps of PowerStep and of Adam on the same gradients, by coordinate, at the end of"
    " training of either optimizer; brighter colours are more coordinates, on a log scale. The"
    " line is where they are equal, once PowerStep's is divided by 1-γ. ρ is the rank correlation."
)
DISPLACEMENTS = (
    "Displacement of a coordinate in one step, |m|^β of PowerStep and |m̂|/(√v̂ + ε) of AdamW, in"
    " units of the learning rate. Bands and lines as in the figure of effective steps. Grey:"
    " PowerStep's upper bound with clipped gradients."
)
ROUNDING = (
    "Effect of rounding the momentum on PowerStep's update, on the same gradients: relative error"
    " of the update and share of flipped signs, after one rounding and kept over the steps."
)
EFFECTIVE_TABLE = (
    "Effective steps of PowerStep at the end of training, means over seeds: median D/η, its 99.9 %"
    " quantile and its maximum over the median, share of coordinates with zero momentum, and the"
    " agreement with Adam's effective steps on the same gradients."
)
ROUNDING_TABLE = (
    "Rounding the momentum at the end of training, means over seeds: relative error of the momentum"
    " and of the update, flipped signs, and momenta that become 0, after one rounding / kept over"
    " the steps."
)


def loss_over_lr(model: str, rows: _Rows) -> str:
    """Return the caption of a figure of a learning-rate sweep."""
    return (
        f"Final validation loss over learning rate: {model}, {seeds(rows)}"
        f"{_intervals(rows, 'error bars')}. A ring marks each optimizer's best learning rate. A"
        f" cross at the top marks a learning rate at which a run diverged.{_LEVELS}"
    )


def loss_over_state(model: str, rows: _Rows) -> str:
    """Return the caption of a figure of final losses over optimizer state."""
    return (
        f"Final validation loss over optimizer-state bytes per parameter: {model}, {seeds(rows)}"
        f"{_intervals(rows, 'error bars')}. Filled markers have the shared learning rate, open"
        " markers an optimizer's own, which is the best of its sweep or was given to it. A cross at"
        f" the top marks a divergence.{_LEVELS}{_own_rates(rows)}"
    )


def loss_and_cost(rows: _Rows) -> str:
    """Return the caption of a table of costs and final losses."""
    return (
        "Optimizer state, time of an optimizer's step, speed, peak memory and final validation loss"
        f" in nats per token, sorted by state: {seeds(rows)}"
        f"{_intervals(rows, 'intervals behind ±')}.{_own_rates(rows)}"
    )


def loss_by_optimizer(subject: str) -> str:
    """Return the caption of a table of final losses by optimizer."""
    return (
        f"Final validation loss {subject} in nats per token: mean over seeds ± half-width of its"
        " 95 % confidence interval. In a column 'lr' all optimizers have that learning rate, which"
        " is the paper's protocol. In a column 'own lr' each has its own best learning rate (in"
        " brackets), chosen from the rates of its sweep; 'fit' is the minimum of a quadratic"
        " through the nearest rates, ± half-width of its 95 % confidence interval."
        " 'windows ±' is the standard error over the validation windows."
    )


def own_rates(experiment: str, rows: _Rows) -> str:
    """Return the caption of a table of the best rates in an experiment."""
    return (
        f"Final validation loss at the best learning rate of each sweep in the experiment"
        f" {experiment}, in nats per token: {seeds(rows)}. 'fitted' is the minimum of a quadratic"
        " through the nearest rates."
    )


def loss_over_cost(model: str, rows: _Rows) -> str:
    """Return the caption of a figure of losses over tokens and time."""
    return f"Validation loss over tokens and over training time: {model}. {lines(rows)}"


def seeds(rows: _Rows) -> str:
    """Describe the number of seeds."""
    n = _number_of_seeds(rows)
    return "one seed" if n == 1 else f"mean over {n} seeds"


def lines(rows: _Rows) -> str:
    """Describe the lines of a figure."""
    return (
        f"Lines: {seeds(rows)}{_intervals(rows, 'bands')}. A cross marks a divergence.{_LEVELS}"
        f"{_own_rates(rows)}"
    )


def _own_rates(rows: _Rows) -> str:
    """Name the optimizers that do not have the shared learning rate, outside of a sweep.

    If an optimizer has several learning rates, every line and cell names its own.
    """
    rates: dict[tuple[str, float], set[float]] = {}
    for row in rows:
        if row["experiment"] != "learning_rate":
            rates.setdefault((row["label"], row["shared_lr"]), set()).add(row["lr"])
    if any(len(given) > 1 for given in rates.values()):
        return ""
    own = {
        f"{label} {lr:g}": None
        for (label, shared), given in rates.items()
        for lr in given - {shared}
    }
    return f" Learning rates other than the shared one: {', '.join(own)}." if own else ""


def _intervals(rows: _Rows, shape: str) -> str:
    return f"; {shape}: 95 % confidence intervals" if _number_of_seeds(rows) > 1 else ""


def _number_of_seeds(rows: _Rows) -> int:
    return len({row["seed"] for row in rows})
