"""Feature collision: Poison Frogs! (Shafahi, Huang et al., NeurIPS 2018), Algorithm 1, and its ℓ∞-bounded form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poisonfrogs.descent import Backtracking, Ball, Budget, Rule, SignedMomentum, descend, spread
from poisonfrogs.types import Crafted, Extractor, Goal, Stop


@dataclass(frozen=True)
class Pull:
    """The paper's penalty: the backward step (x̂ + λβb) / (1 + βλ).

    Its fixed point minimises ‖f(x) − f(t)‖² + (β/2)‖x − b‖²; the paper's text writes β for this β/2.
    """

    beta: float

    def prox(self, x: Tensor, step: Tensor, base: Tensor) -> Tensor:
        weight = spread(step * self.beta)
        # written so that β → ∞ gives b, not ∞/∞
        return (x + (base - x) * (1 - 1 / (1 + weight))).clamp_(0, 1)

    def cost(self, x: Tensor, base: Tensor) -> Tensor:
        # nothing, where nothing moved, whatever β is: 0·∞ is no number
        return torch.nan_to_num((x - base).square().flatten(1).sum(1) * (self.beta / 2), nan=0.0)

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        return (x * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Collision:
    """argmin_x ‖f(x) − f(t)‖² within a budget around the base b, for many (t, b) at once.

    With `eps`: inside the ℓ∞ ball, by signed momentum. Without: the paper's Algorithm 1 with its β.
    """

    eps: float | None = 8 / 255  # ℓ∞ budget in [0, 1]; None: the paper's β instead
    beta: float = 0.25  # the paper's β₀; β = β₀·d²/(base height·width·3)², d the size of the feature
    passes: int = 90  # forward + backward passes at most
    overshoot: float = 5.0  # a, in feature units; 0 is the paper's plain form
    step: float = 0.02  # of the ℓ∞ form: first step, in [0, 1] units of a pixel
    momentum: float = 0.75  # of the ℓ∞ form
    cycle: int = 30  # of the ℓ∞ form: passes in which the step falls to 0
    restart: float = 0.25  # of the ℓ∞ form: what every later cycle starts from, of the first step
    first_move: float = 0.005  # of the β form: how far the first step moves the average pixel
    every: int = 10  # passes between two looks at the stop test

    def __call__(
        self, net: Extractor, bases: Sequence[Tensor], goals: Sequence[Goal], *, stop: Stop, checks: Sequence[Extractor]
    ) -> Crafted:
        """See types.Attack: `bases` are uint8 (3, h, w), the poisons have their sizes."""
        if not bases:
            return Crafted(pictures=[], passes=[], failures=[])
        # Aim beyond the target: f(t) + a·u, u pointing from the base class's mean to the target
        # class's. A head draws its boundary between the poison and the class it came to lie in; only
        # a poison deeper in that class than the target leaves the target on its own side.
        aims = torch.stack([goal.feature + self.overshoot * goal.axis for goal in goals])
        floats = [base.to(aims) / 255 for base in bases]

        def budget(values: int) -> Budget:
            return Pull(self.beta * aims.shape[1] ** 2 / values**2) if self.eps is None else Ball(self.eps)

        def objective(features: Tensor, active: list[int]) -> Tensor:
            return (features - aims[active]).square().sum(1)

        def rounded(x: Tensor, i: int) -> Tensor:
            return budget(bases[i].numel()).quantise(x, bases[i])

        def finished(pictures: list[Tensor], features: Tensor, active: list[int]) -> list[bool]:
            fell = stop.likely(features, active).clone()  # it is the caller's
            for check in checks:
                likely = fell.nonzero()[:, 0].tolist()
                if not likely:
                    break
                stored = [rounded(pictures[j], active[j]).to(aims) / 255 for j in likely]
                with torch.no_grad():
                    exact = check(stored)
                fell[likely] = stop.sure(exact, [active[j] for j in likely])
            return [bool(yes) for yes in fell]

        pictures, passes, failures = descend(
            net,
            floats,
            objective=objective,
            budget=budget,
            rule=self._rule(),
            passes=self.passes,
            finished=finished,
            every=self.every,
        )
        return Crafted(pictures=[rounded(x, i) for i, x in enumerate(pictures)], passes=passes, failures=failures)

    def _rule(self) -> Rule:
        if self.eps is None:
            return Backtracking(step=self.first_move)
        return SignedMomentum(step=self.step, momentum=self.momentum, cycle=self.cycle, restart=self.restart)
