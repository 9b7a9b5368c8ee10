"""One regularised head, and how far training examples can move it."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, log_softmax, softmax
from torch import Tensor
from torch.nn.functional import pad

from poisonfrogs.certified.classifier import LEVELS, Answers, CertifiedClassifier, Head, Matrix

RESIDUAL = 1e-6  # length of the gradient at the solution, at most, as a share of alpha
UNIT = 2.0**-53


class StableHead(CertifiedClassifier):
    """Softmax regression with L2 strength `alpha` on the sum of the cross-entropies, the bias included.

    The loss is alpha-strongly convex and an example's gradient is bounded, so r operations move the lead of a
    class by 2 r R² / alpha at most (docs/certified.md, theorem 5). The number of classes is part of the head:
    its certificate does not cover a label that is new. `alpha` must be chosen without the training data.
    """

    limits = {"alpha": (Real, 1e-3, 1e12)}

    def __init__(self, alpha: float = 1000.0, classes: ArrayLike | None = None) -> None:
        self.alpha = alpha
        self.classes = classes

    def _head(self, whole: Matrix, codes: Matrix) -> Head:
        z, member = _extended(torch.from_numpy(whole)).numpy(), np.eye(len(self.classes_))[codes]
        weight = _solved(z, member, float(self.alpha))
        # without `classes` a class lives by its examples, and with the last of them the head loses a column
        most = len(codes) if self.classes is not None else int(np.bincount(codes).min()) - 1
        needed = _needed(weight, float(self.alpha), len(codes), most)
        return StableSoftmax(weight=torch.from_numpy(weight), needed=torch.from_numpy(needed))


class StableSoftmax(Head):
    """See StableHead."""

    weight: Tensor  # (d + 1, classes) float64, the bias last
    needed: Tensor  # (r + 1,) margins that 0, 1, ... r operations cannot take away

    def answer(self, whole: Tensor) -> Answers:
        """See Head."""
        logits = _extended(whole) @ self.weight
        codes = logits.argmax(1)
        if self.weight.shape[1] == 1:
            return Answers(codes, torch.zeros_like(codes), torch.ones_like(logits))
        first, second = logits.topk(2).values.T
        radius = (self.needed < (first - second)[:, None]).sum(1) - 1
        return Answers(codes, radius, logits.softmax(1))


def _extended(whole: Tensor) -> Tensor:
    """Rows of about length 1, and the constant whose weight is the bias."""
    return pad(whole.double() / LEVELS, (0, 1), value=1.0)


def _length(dim: int) -> float:
    """R: what no extended row of `dim` features is longer than, an inserted one included."""
    return float(np.hypot(1 + np.sqrt(dim) / 2 / LEVELS, 1))


def _needed(weight: Matrix, alpha: float, rows: int, most: int) -> Matrix:
    """The margin that r operations cannot take away, for r from 0 to `most` or as far as a margin can be: (r + 1,).

    2 r R² / alpha, less for two classes (docs/certified.md, theorem 5), the solver's residual, and what float64 rounds.
    """
    length = _length(len(weight) - 1)
    rounding = 2 * rows * sum(weight.shape) * UNIT * np.sqrt(2) * length / alpha  # of twice the rows
    slack = 2 * np.sqrt(2) * length * (RESIDUAL + 2 * rounding)
    slack += 8 * len(weight) * UNIT * length * np.linalg.norm(weight, axis=0).max()
    widest = 2 * np.linalg.norm(weight, axis=0).max() * length  # no margin is wider
    r = np.arange(min(most, int(alpha * widest / length**2) + 1) + 1)
    share = np.ones(len(r))
    if weight.shape[1] == 2:
        norm = np.linalg.norm(weight[:, 0] - weight[:, 1])
        share = _share(length * norm + 2 * r * length**2 / alpha + slack, slack)
    return np.asarray(slack + 2 * r * length**2 / alpha * share)


def _share(reach: Matrix, slack: float) -> Matrix:
    """The largest of  (1 + cos t) / 2 · sigmoid(reach sin t + slack)  over all angles t, from above: (n,) -> (n,).

    With two classes, the part of the plain bound that an example at angle t to a row can have when its margin is gone.
    """
    angle = np.linspace(0, np.pi, 513)
    found = [((1 + np.cos(angle)) / 2 * expit(one * np.sin(angle) + slack)).max() for one in reach]
    return np.minimum(np.array(found) + (0.5 + reach / 4) * np.pi / 1024, 1.0)  # what lies between two angles


def _solved(z: Matrix, member: Matrix, alpha: float) -> Matrix:
    """The weights (d, k) at which the gradient of the loss, divided by alpha, is no longer than `RESIDUAL`.

    L-BFGS, and Newton's steps where its line search ends in rounding.
    """
    shape = z.shape[1], member.shape[1]

    def objective(flat: Matrix) -> tuple[float, Matrix]:
        weight = flat.reshape(shape)
        log = log_softmax(z @ weight, axis=1)
        gradient = z.T @ (np.exp(log) - member) / alpha + weight
        return float(np.square(weight).sum() / 2 - (log * member).sum() / alpha), gradient.ravel()

    def curvature(flat: Matrix) -> LinearOperator:
        p = softmax(z @ flat.reshape(shape), axis=1)

        def times(direction: Matrix) -> Matrix:
            moved = p * (z @ direction.reshape(shape))
            return np.asarray((z.T @ (moved - p * moved.sum(1, keepdims=True)) / alpha).ravel() + direction.ravel())

        return LinearOperator((flat.size, flat.size), matvec=times)

    options = {"maxiter": 1000, "ftol": 0.0, "gtol": RESIDUAL / np.sqrt(np.prod(shape)), "maxcor": 20}
    flat = minimize(objective, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options).x
    for _ in range(20):
        gradient = objective(flat)[1]
        if np.linalg.norm(gradient) <= RESIDUAL:
            return np.asarray(flat.reshape(shape))
        flat = flat - cg(curvature(flat), gradient, rtol=1e-4)[0]
    raise ValueError(f"alpha={alpha} is too small to solve {len(z)} rows exactly; give a larger one")
