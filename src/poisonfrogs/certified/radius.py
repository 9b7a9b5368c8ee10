"""Every training example near enough votes for its label."""

from __future__ import annotations

import math
from numbers import Real

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import one_hot

from poisonfrogs.certified.classifier import LEVELS, Answers, CertifiedClassifier, Head, Matrix, lead, product, shares


class RadiusVotes(CertifiedClassifier):
    """Votes of all training examples whose cosine with the row is at least `threshold`.

    An insertion or a removal moves the lead by one vote at most, so the radius is the lead less one
    (docs/certified.md, theorem 1; radius neighbours: Jia et al. 2022). `threshold` must be chosen without the
    training data.
    """

    limits = {"threshold": (Real, -1, 1)}

    def __init__(self, threshold: float = 0.35, classes: ArrayLike | None = None) -> None:
        self.threshold = threshold
        self.classes = classes

    def _head(self, whole: Matrix, codes: Matrix) -> Head:
        member = one_hot(torch.from_numpy(codes), len(self.classes_)).to(torch.int8)
        least = math.ceil(self.threshold * LEVELS**2)
        return RadiusHead(examples=torch.from_numpy(whole).to(torch.int16), member=member, least=least)


class RadiusHead(Head):
    """See RadiusVotes."""

    examples: Tensor  # (m, d) whole numbers
    member: Tensor  # (m, classes): 1 for the label of each
    least: int  # product of two rows from which an example votes

    def answer(self, whole: Tensor) -> Answers:
        """See Head."""
        near = product(whole, self.examples.T) >= self.least
        votes = product(near, self.member).long()
        codes = votes.argmax(1)
        return Answers(codes, lead(votes, codes) - 1, shares(votes))
