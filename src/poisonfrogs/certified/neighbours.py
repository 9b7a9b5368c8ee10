"""The k nearest training examples vote."""

from __future__ import annotations

from numbers import Integral

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import one_hot, pad

from poisonfrogs.certified.classifier import Answers, CertifiedClassifier, Head, Matrix, product, shares


class NeighbourVotes(CertifiedClassifier):
    """Votes of the `k` training examples of largest cosine; among equal ones those of the first class.

    The radius is exact: one operation more can change the prediction, but for ties (docs/certified.md,
    theorem 2; Jia et al. 2022 for the plain form). `k` must be chosen without the training data.
    """

    limits = {"k": (Integral, 1, 2**31)}

    def __init__(self, k: int = 101, classes: ArrayLike | None = None) -> None:
        self.k = k
        self.classes = classes

    def _head(self, whole: Matrix, codes: Matrix) -> Head:
        member = one_hot(torch.from_numpy(codes), len(self.classes_)).to(torch.int8)
        return NeighbourHead(examples=torch.from_numpy(whole).to(torch.int16), member=member, k=int(self.k))


class NeighbourHead(Head):
    """See NeighbourVotes."""

    examples: Tensor  # (m, d) whole numbers
    member: Tensor  # (m, classes): 1 for the label of each
    k: int

    def answer(self, whole: Tensor) -> Answers:
        """See Head."""
        cosines = product(whole, self.examples.T)
        nearest = cosines.topk(min(2 * self.k, len(self.member)))
        votes = self._votes(cosines, nearest.values[:, min(self.k, len(self.member)) - 1, None])
        codes = votes.argmax(1)
        labels = self.member.argmax(1)[nearest.indices]
        level = product(cosines == nearest.values[:, -1:], self.member).long()  # as far as the farthest of them
        rivals = range(self.member.shape[1]) if self.member.shape[1] > 1 else [-1]  # one that has no votes yet
        radii = torch.stack([self._radius(nearest.values, labels, level, codes, rival) for rival in rivals])
        return Answers(codes, radii.amin(0), shares(votes))

    def _votes(self, cosines: Tensor, last: Tensor) -> Tensor:
        """Votes of the k nearest, the last of them at `last`, whatever the order of the examples: (n, classes)."""
        nearer, level = product(cosines > last, self.member).long(), product(cosines == last, self.member).long()
        room = min(self.k, len(self.member)) - nearer.sum(1, keepdim=True)
        return nearer + (room - (level.cumsum(1) - level)).clamp(min=0).minimum(level)

    def _radius(self, cosines: Tensor, labels: Tensor, level: Tensor, codes: Tensor, rival: int) -> Tensor:
        """Operations that cannot give a rival as many votes as a row's own class (n,).

        With s operations, j of them removals, the first k - s + 2j of the training examples keep k - s + j votes
        among them; the rival has won once our lead over it among these is s or less. So for each
        m = k - s + 2j the smallest such s, and over all m the smallest of these, is the first that succeeds.
        """
        count = len(self.member)
        lead = _lead(cosines, labels, level, codes, rival)
        offset = torch.arange(lead.shape[1], device=lead.device) - self.k
        least = offset.abs().maximum(lead)
        least = (least + (least - offset) % 2).amin(1)
        if count <= 2 * self.k:  # from m = count on the lead stays what it is
            least = least.minimum(lead[:, -1].clamp(min=max(count - self.k, 0)))
        return torch.where(codes == rival, count + self.k, least - 1)


def _lead(cosines: Tensor, labels: Tensor, level: Tensor, codes: Tensor, rival: int) -> Tensor:
    """A row's class less `rival` among the m nearest, for m = 0, 1, ...: cosines, labels (n, m) -> (n, m + 1).

    Equal cosines are taken in the order that is worst for us: the rival's first, our own last. `level` (n, classes)
    counts all examples as far as the farthest, of which only some are among the m.
    """
    place = torch.where(labels == rival, 2, torch.where(labels == codes[:, None], 0, 1))
    own = level.gather(1, codes[:, None])
    theirs = level[:, rival, None] if rival >= 0 else torch.zeros_like(own)
    slot = (cosines == cosines[:, -1:]).cumsum(1)  # from 1 among the farthest
    farthest = torch.where(slot <= theirs, 2, torch.where(slot <= level.sum(1, keepdim=True) - own, 1, 0))
    keys = 3 * cosines.long() + torch.where(slot > 0, farthest, place)  # thrice a cosine may be beyond float32
    place = keys.sort(1, descending=True).values % 3
    return pad(((place == 0).long() - (place == 2).long()).cumsum(1), (1, 0))
