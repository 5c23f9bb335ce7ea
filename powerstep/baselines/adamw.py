"""The formula of AdamW (arXiv:1711.05101, Algorithm 2) for kernels, and its hyperparameters."""

from typing import Any

from torch import Tensor

from powerstep.kernels.formula import Formula


def adamw_formula(group: dict[str, Any], step: int | Tensor) -> Formula:
    """Return `powerstep.functional.adamw_` as text for kernels.

    Args:
        group: a parameter group with lr, betas, eps and weight_decay.
        step: the step number, counted from 1.
    """
    return Formula(
        """
        exp_avg = beta1 * exp_avg + rest1 * grad
        exp_avg_sq = beta2 * exp_avg_sq + rest2 * grad * grad
        theta = decay * theta - step_size * exp_avg / (sqrt(exp_avg_sq / correction) + eps)
        """,
        adam_numbers(group, step),
    )


def adam_numbers(
    group: dict[str, Any], step: int | Tensor, *, corrected: bool = True
) -> dict[str, float | Tensor]:
    """Return the hyperparameters of Adam and AdamS in formulas, by name.

    Args:
        group: as in `adamw_formula`.
        step: as in `adamw_formula`.
        corrected: whether the bias of the moments is corrected, by step_size and correction.
    """
    (beta1, beta2), lr = group["betas"], group["lr"]
    return {
        "beta1": beta1,
        "rest1": 1 - beta1,
        "beta2": beta2,
        "rest2": 1 - beta2,
        "eps": group["eps"],
        "decay": 1 - lr * group["weight_decay"],
        "step_size": lr / (1 - beta1**step) if corrected else lr,
        "correction": 1 - beta2**step if corrected else 1.0,
    }
