"""Evasion, for contrast: the target itself is perturbed, at test time; training is not touched (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from poisonfrogs.descent import Ball, Budget, Prox, Rule, SignedMomentum, descend, spread
from poisonfrogs.types import Extractor

# (features (n, d), indices of the n pictures) -> logits (n, classes)
Classifier = Callable[[Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class Ball2:
    """‖x − b‖₂ ≤ r, in stored pictures as well: where rounding leaves the ball, less of the change is kept."""

    radius: float  # pixels in [0, 1]

    def prox(self, x: Tensor, step: Tensor, base: Tensor) -> Tensor:
        change = x - base
        share = (self.radius / change.flatten(1).norm(dim=1).clamp(min=1e-30)).clamp(max=1)
        # clamping after the projection only shortens the way: b itself lies in [0, 1]
        return (base + change * spread(share)).clamp_(0, 1)

    def cost(self, x: Tensor, base: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        change, share = x * 255 - base, 1.0
        while (levels := (share * change).round()).norm() > self.radius * 255:
            share *= 0.99
        return (base + levels).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """x ← prox(x − α·√n·g/‖g‖₂), n the number of values: the ℓ2 step of Madry et al. 2018."""

    step: float  # α, the root mean square of one step, pixels in [0, 1]

    def __call__(
        self, state: Any, x: Tensor, value: Tensor, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, tuple[()]]:
        """See descent.Rule; there is no state."""
        way = self.step * gradient[0].numel() ** 0.5 / gradient.flatten(1).norm(dim=1).clamp(min=1e-30)
        return prox(x - spread(way) * gradient, way), ()

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class Evasion:
    """Projected gradient descent on the cross-entropy of a wanted class, from the picture, many pictures at once."""

    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255  # linf: the largest change of a value; l2: the root mean square of the changes; in [0, 1]
    passes: int = 40  # forward + backward passes at most
    confidence: float = 0.99  # of the wanted class: enough, as asked every five passes

    def __call__(
        self, net: Extractor, pictures: Sequence[Tensor], wanted: Sequence[int], classifier: Classifier
    ) -> list[Tensor]:
        """uint8 (3, h, w), each of its own size, and the class each is to be taken for -> the pictures perturbed.

        The l2 budget of a picture is eps·√(3hw).
        """
        labels = torch.tensor(list(wanted))

        def objective(features: Tensor, active: list[int]) -> Tensor:
            return cross_entropy(classifier(features, active), labels[active].to(features.device), reduction="none")

        def finished(_: list[Tensor], features: Tensor, active: list[int]) -> list[bool]:
            said = classifier(features, active).softmax(1).cpu()
            return (said.gather(1, labels[active][:, None])[:, 0] > self.confidence).tolist()

        moved, _, _ = descend(
            net,
            [picture / 255 for picture in pictures],
            objective=objective,
            budget=self._budget,
            rule=self._rule(),
            passes=self.passes,
            finished=finished,
            every=5,
        )
        stored = zip(moved, pictures, strict=True)
        return [self._budget(picture.numel()).quantise(x, picture) for x, picture in stored]

    def _budget(self, values: int) -> Budget:
        return Ball(self.eps) if self.norm == "linf" else Ball2(self.eps * values**0.5)

    def _rule(self) -> Rule:
        if self.norm == "linf":
            return SignedMomentum(step=self.eps / 4, momentum=0.75, cycle=self.passes, restart=1.0)
        return Normalised(step=2.5 * self.eps / self.passes)
