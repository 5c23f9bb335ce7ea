"""Methods that orthogonalize the steps of matrices take those of their papers, in NumPy.

`make test-field` runs these tests; they are skipped where a library is not installed.
The libraries orthogonalize in bf16, so a few hundredths of a step are accepted as errors.
"""

import numpy as np

from tests.field.stepping import adamw, assert_takes_the_steps_of, decay

TOLERANCE = 0.04


def orthogonal(x):
    """Return x after five Newton-Schulz steps, which bring its singular values near 1.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon.
    """
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_muon():
    def muon(role, theta, grads, lrs):
        """Jordan et al. 2024 with Nesterov momentum, sized by arXiv:2502.16982, equation 4."""
        if role != "hidden_matrices":
            return adamw(theta, grads, lrs)
        m = np.zeros_like(theta)
        for g, lr in zip(grads, lrs, strict=True):
            m = 0.95 * m + g
            update = 0.2 * np.sqrt(max(theta.shape)) * orthogonal(0.95 * m + g)
            theta = theta - lr * (update + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(muon, "muon-torch", TOLERANCE)


def test_normuon():
    def normuon(role, theta, grads, lrs):
        """Li et al., arXiv:2510.05491, Algorithm 1; Nesterov momentum as in the authors' code."""
        if role != "hidden_matrices":
            return adamw(theta, grads, lrs)
        m, v = np.zeros_like(theta), np.zeros((len(theta), 1))
        for g, lr in zip(grads, lrs, strict=True):
            m = 0.95 * m + 0.05 * g
            update = orthogonal(0.95 * m + 0.05 * g)
            v = 0.95 * v + 0.05 * (update**2).mean(axis=1, keepdims=True)
            update = update / np.sqrt(v)
            update = update * 0.2 * np.sqrt(update.size) / np.linalg.norm(update)
            theta = theta - lr * (update + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(normuon, "normuon", TOLERANCE)


def test_scion():
    def scion(role, theta, grads, lrs):
        """Pethick et al., arXiv:2502.07529, Algorithm 2: a step to the corner of a ball."""
        m = np.zeros_like(theta)
        for g, lr in zip(grads, lrs, strict=True):
            m = 0.9 * m + 0.1 * g
            if theta.ndim < 2:
                corner = m / np.sqrt(np.mean(m**2))
            elif role == "hidden_matrices":
                corner = 50 * np.sqrt(theta.shape[0] / theta.shape[1]) * orthogonal(m)
            else:
                corner = 3000 / theta.shape[1] * np.sign(m)
            theta = (1 - lr) * theta - lr * corner
        return theta

    assert_takes_the_steps_of(scion, "scion", TOLERANCE)
