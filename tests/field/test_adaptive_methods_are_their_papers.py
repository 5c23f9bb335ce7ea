"""Variants of Adam and Shampoo take the steps of their papers, as computed in NumPy.

`make test-field` runs these tests; they are skipped where a library is not installed.
"""

import numpy as np

from tests.field.stepping import STEPS, adamw, assert_takes_the_steps_of, decay


def test_cautious_adamw():
    def cautious(role, theta, grads, lrs):
        return adamw(theta, grads, lrs, cautious=True)

    assert_takes_the_steps_of(cautious, "adamw-cautious")


def test_ademamix():
    def ademamix(role, theta, grads, lrs, horizon=STEPS - 4):
        """Pagliardini et al., arXiv:2409.03137, Algorithm 1, alpha and beta3 scheduled."""
        fast, slow, v = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
        for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
            part = min(1.0, t / horizon)
            beta3 = np.exp(
                np.log(0.9) * np.log(0.9999) / ((1 - part) * np.log(0.9999) + part * np.log(0.9))
            )
            fast, slow = 0.9 * fast + 0.1 * g, beta3 * slow + (1 - beta3) * g
            v = 0.999 * v + 0.001 * g**2
            update = fast / (1 - 0.9**t) + 8 * part * slow
            update = update / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            theta = theta - lr * (update + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(ademamix, "ademamix")


def test_adopt():
    def adopt(role, theta, grads, lrs):
        """Taniguchi et al., arXiv:2411.02853, Algorithm 2, with the two differences of the library.

        The bound of step t is that of t + 1, and the step that sets v also decays the weights.
        """
        m, v = np.zeros_like(theta), grads[0] ** 2
        theta = theta - lrs[0] * decay(theta) * theta
        for t, (g, lr) in enumerate(zip(grads[1:], lrs[1:], strict=True), 1):
            bound = (t + 1) ** 0.25
            m = 0.9 * m + 0.1 * np.clip(g / np.maximum(np.sqrt(v), 1e-6), -bound, bound)
            v = 0.9999 * v + 0.0001 * g**2
            theta = theta - lr * (m + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(adopt, "adopt")


def test_mars():
    def mars(role, theta, grads, lrs):
        """Yuan et al., arXiv:2411.10438, Algorithm 2 with the gradient of the step before.

        Vectors are AdamW's at half the learning rate, as in the authors' code.
        """
        if theta.ndim < 2:
            return adamw(theta, grads, [lr / 2 for lr in lrs])
        m, v, last = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
        for t, (g, lr) in enumerate(zip(grads, lrs, strict=True), 1):
            c = g + 0.025 * 0.95 / (1 - 0.95) * (g - last)
            c = c / max(1.0, np.linalg.norm(c))
            m, v, last = 0.95 * m + 0.05 * c, 0.99 * v + 0.01 * c**2, g
            update = m / (1 - 0.95**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
            theta = theta - lr * (update + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(mars, "mars")


def test_soap():
    def soap(role, theta, grads, lrs):
        """Vyas et al., arXiv:2409.11321, Algorithm 3; the authors' code skips the first step.

        Weights decay after the step.
        """
        m, v, sides = np.zeros_like(theta), np.zeros_like(theta), []
        if theta.ndim == 2:
            sides = [0.05 * grads[0] @ grads[0].T, 0.05 * grads[0].T @ grads[0]]
        bases = [np.linalg.eigh(side)[1][:, ::-1] for side in sides]

        def turned(x, back=False):
            if not bases:
                return x
            left, right = bases
            return left @ x @ right.T if back else left.T @ x @ right

        for t, (g, lr) in enumerate(zip(grads[1:], lrs[1:], strict=True), 1):
            m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * turned(g) ** 2
            update = turned(m) / (1 - 0.95**t) / (np.sqrt(v) + 1e-8) * np.sqrt(1 - 0.95**t)
            theta = theta - lr * turned(update, back=True)
            theta = theta - lr * decay(theta) * theta
            if bases:
                sides = [
                    0.95 * side + 0.05 * new
                    for side, new in zip(sides, (g @ g.T, g.T @ g), strict=True)
                ]
            if bases and t % 10 == 0:
                for axis, (side, basis) in enumerate(zip(sides, bases, strict=True)):
                    order = np.argsort(-np.einsum("ij,ij->j", basis, side @ basis))
                    v = np.take(v, order, axis=axis)
                    bases[axis] = np.linalg.qr(side @ basis[:, order])[0]
        return theta

    # The first gradient of any other matrix leaves a part of the basis of its longer side open.
    assert_takes_the_steps_of(soap, "soap", compared=lambda theta: len({*theta.shape}) == 1)


def test_came():
    def came(role, theta, grads, lrs):
        """Luo et al., arXiv:2307.02047, Algorithm 2; vectors have no factors and no confidence."""

        def factored(row, col, new, beta):
            row = beta * row + (1 - beta) * new.mean(axis=1)
            return row, beta * col + (1 - beta) * new.mean(axis=0)

        m, v, row, col, unsure_row, unsure_col = np.zeros_like(theta), 0.0, 0.0, 0.0, 0.0, 0.0
        for g, lr in zip(grads, lrs, strict=True):
            square = g**2 + 1e-30
            if theta.ndim == 2:
                row, col = factored(row, col, square, 0.999)
                v = np.outer(row, col) / row.mean()
            else:
                v = 0.999 * v + 0.001 * square
            u = g / np.sqrt(v)
            u = u / max(1.0, np.sqrt(np.mean(u**2)))
            m = update = 0.9 * m + 0.1 * u
            if theta.ndim == 2:
                unsure_row, unsure_col = factored(
                    unsure_row, unsure_col, (u - m) ** 2 + 1e-16, 0.9999
                )
                update = m / np.sqrt(np.outer(unsure_row, unsure_col) / unsure_row.mean())
            theta = theta - lr * (update + decay(theta) * theta)
        return theta

    assert_takes_the_steps_of(came, "came")
