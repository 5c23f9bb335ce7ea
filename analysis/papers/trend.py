"""The gap of PowerStep to AdamW over model size in the paper's own tables; no run is needed."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.papers.numbers import load_paper

# The data term B/D^β of Chinchilla's fitted law, arXiv:2203.15556, equation 10. It was fitted to
# other models on other text, so token factors from it are approximate.
_B, _EXPONENT = 410.7, 0.28


@dataclass(frozen=True)
class Trend:
    """A straight line through gaps over log10 of the number of parameters, by least squares.

    Args:
        slope: nats per token and decade of parameters.
        half_width: half-width of the slope's 95 % interval by Student's t.
        r_squared: share of the gaps' variance that the line explains.
        p_value: of the two-sided test that the slope is 0.
        spearman: rank correlation of gap and size.
        x: log10 of the numbers of parameters, shape (models,).
        y: gaps in nats per token, shape (models,).
    """

    slope: float
    half_width: float
    r_squared: float
    p_value: float
    spearman: float
    x: np.ndarray
    y: np.ndarray

    def at(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the line at numbers of parameters, and the half-width of its 95 % interval."""
        x, n = np.log10(parameters), len(self.x)
        centre = self.x.mean()
        line = self.y.mean() + self.slope * (x - centre)
        residuals = self.y - self.y.mean() - self.slope * (self.x - centre)
        variance = (residuals @ residuals) / (n - 2)
        spread = ((self.x - centre) ** 2).sum()
        error = np.sqrt(variance * (1 / n + (x - centre) ** 2 / spread))
        return line, stats.t.ppf(0.975, n - 2) * error


def paper_gaps() -> pd.DataFrame:
    """Return PowerStep's final loss minus AdamW's for each model of tables 4 and 6.

    The columns are model, parameters, tokens, adamw, powerstep, gap (nats per token), state (of
    PowerStep: fp32 in table 4, int8 in table 6) and token_factor: the tokens with which AdamW would
    reach PowerStep's loss over those that it had, by Chinchilla's law (approximate).
    """
    paper = load_paper()
    rows = []
    for model, losses in paper["val_loss"].items():
        state = "fp32" if "powerstep" in losses else "int8"
        ours = losses["powerstep" if state == "fp32" else "powerstep-int8"]
        training = paper["models"][model]
        tokens = training["steps"] * training["batch_size"] * training["context"]
        gap = round(ours - losses["adamw"], 3)  # as precise as the published numbers
        rows.append(
            {
                "model": model,
                "parameters": float(paper["parameters"][model]),
                "tokens": tokens,
                "adamw": losses["adamw"],
                "powerstep": ours,
                "gap": gap,
                "state": state,
                "token_factor": _token_factor(gap, tokens),
            }
        )
    return pd.DataFrame(rows)


def paper_trend(*, family: str = "") -> Trend:
    """Return the trend of table 4, or that of its models whose names begin with `family`."""
    gaps = paper_gaps()
    chosen = gaps[(gaps["state"] == "fp32") & gaps["model"].str.startswith(family)]
    x, y = np.log10(chosen["parameters"].to_numpy()), chosen["gap"].to_numpy()
    line = stats.linregress(x, y)
    return Trend(
        slope=float(line.slope),
        half_width=float(stats.t.ppf(0.975, len(x) - 2) * line.stderr),
        r_squared=float(line.rvalue**2),
        p_value=float(line.pvalue),
        spearman=float(stats.spearmanr(x, y).statistic),
        x=x,
        y=y,
    )


def _token_factor(gap: float, tokens: float) -> float:
    """Return D'/D where the data term of Chinchilla's law at D' is higher by `gap` than at D."""
    term = _B / tokens**_EXPONENT
    return math.pow(1 + gap / term, -1 / _EXPONENT)
