"""One small head for each part of the training set, and a vote of the heads."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from poisonfrogs.certified.classifier import (
    LEVELS,
    Answers,
    CertifiedClassifier,
    Head,
    Matrix,
    digest,
    lead,
    product,
    shares,
)

PRECISION = 3000  # length of a head's longest weight vector in whole numbers: products stay below 2**23
NEVER = 2**40  # operations


class PartitionVotes(CertifiedClassifier):
    """Deep partition aggregation (Levine and Feizi, ICLR 2021) with ridge heads on frozen features.

    A hash of its content puts an example into one of `n_partitions`; each has a head of its own, which knows
    the labels of that partition alone. An operation touches one head, which moves the lead by two votes at
    most (docs/certified.md, theorem 3). `alpha` is the L2 strength on the sum of squares. With `run_off` the two
    classes with most votes are compared head by head (Rezaei et al. 2023; theorem 4).
    `n_partitions` and `alpha` must be chosen without the training data.
    """

    limits = {"n_partitions": (Integral, 1, 2**31), "alpha": (Real, 1e-6, 1e6)}

    def __init__(
        self, n_partitions: int = 101, alpha: float = 0.1, run_off: bool = False, classes: ArrayLike | None = None
    ) -> None:
        self.n_partitions = n_partitions
        self.alpha = alpha
        self.run_off = run_off
        self.classes = classes

    def _head(self, whole: Matrix, codes: Matrix) -> Head:
        shape = int(self.n_partitions), len(self.classes_)
        part = np.array([int.from_bytes(digest(row)[:8], "big") % shape[0] for row in whole])
        weight = np.zeros((whole.shape[1], *shape), dtype=np.int16)
        bias = np.full(shape, -np.inf, dtype=np.float32)  # of labels that a head does not know
        for number in np.unique(part):
            mine = np.flatnonzero(part == number)
            known = np.unique(codes[mine])
            weight[:, number, known], bias[number, known] = _ridge(
                whole[mine], codes[mine, None] == known, float(self.alpha)
            )
        return PartitionHead(
            weight=torch.from_numpy(weight), bias=torch.from_numpy(bias), run_off=int(bool(self.run_off))
        )


def _ridge(whole: Matrix, member: Matrix, alpha: float) -> tuple[Matrix, Matrix]:
    """Ridge regression of the (m, k) memberships on (m, d) rows, in whole numbers: weights (d, k), biases (k,).

    A function of these rows alone: no other partition is in the arithmetic.
    """
    z, y = whole.astype(np.float64) / LEVELS, member.astype(np.float64)
    mean, share = z.mean(0), y.mean(0)
    z, y = z - mean, y - share
    if len(z) <= z.shape[1]:
        weight = z.T @ np.linalg.solve(z @ z.T + alpha * np.eye(len(z)), y)
    else:
        weight = np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ y)
    bias = share - mean @ weight
    scale = PRECISION / max(np.linalg.norm(weight, axis=0).max(), np.abs(bias).max())
    return (weight * scale).round(), (bias * scale * LEVELS).round()


class PartitionHead(Head):
    """See PartitionVotes."""

    weight: Tensor  # (d, partitions, classes) whole numbers
    bias: Tensor  # (partitions, classes) whole numbers; minus infinity for labels that a head does not know
    run_off: int  # 0 or 1

    def answer(self, whole: Tensor) -> Answers:
        """See Head."""
        scores = product(whole, self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias
        voting = self.bias.isfinite().any(1)  # an empty partition abstains
        first = scores.argmax(2)
        votes = torch.zeros_like(scores[:, 0], dtype=torch.int64)
        votes = votes.scatter_add_(1, first, voting.long().expand_as(first))
        if self.run_off:
            return _elected(scores, votes)
        codes = votes.argmax(1)
        return Answers(codes, _operations(lead(votes, codes), 2) - 1, shares(votes))


def _operations(lead: Tensor, moved: int) -> Tensor:
    """Operations that take a lead away, where each takes at most `moved` of it."""
    return -(-lead).div(moved, rounding_mode="floor").clamp(max=0)


def _elected(scores: Tensor, votes: Tensor) -> Answers:
    """The winner, head by head, between the two classes with most votes; his radius is that of theorem 4.

    He is lost where two rivals overtake him in the first round, or where one rival comes to the second and wins
    it. Two labels that no head knows yet are among the rivals.
    """
    padded = pad(votes, (0, 2))
    width = padded.shape[1]
    two = (padded * width - torch.arange(width, device=padded.device)).topk(2).indices  # among equals the first
    scores = pad(scores, (0, 2), value=-torch.inf)
    first, second = (
        scores.gather(2, two[:, None, place, None].expand(-1, scores.shape[1], -1))[:, :, 0] for place in (0, 1)
    )
    lost = (first > second).sum(1) < (first < second).sum(1)
    codes = torch.where(lost, two[:, 1], two[:, 0])[:, None]
    own = scores.gather(2, codes[:, None].expand(-1, scores.shape[1], -1))
    duel = (own > scores).sum(1) - (own < scores).sum(1)  # (n, classes + 2): heads won less heads lost
    gap = (padded.gather(1, codes) - padded).scatter(1, codes, NEVER).neg().topk(2).values.neg()
    overtaken = _operations(gap[:, 1], 2).maximum(_operations(gap.sum(1), 3))
    others = padded.scatter(1, codes, 0)
    strongest = others.topk(2).values
    third = torch.where(
        others == strongest[:, :1], strongest[:, 1:], strongest[:, :1]
    )  # best of all the others' rivals
    beaten = _operations(duel, 2).maximum(_operations(third - others, 2)).scatter(1, codes, NEVER)
    return Answers(codes[:, 0], overtaken.minimum(beaten.amin(1)) - 1, shares(votes))
