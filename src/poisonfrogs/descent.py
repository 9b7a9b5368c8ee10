"""The one descent loop: forward-backward splitting over many pictures at once, each of its own size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from poisonfrogs.types import Extractor


class Budget(Protocol):
    """How far a poison may go from its base; the backward step of forward-backward splitting."""

    def prox(self, x: Tensor, step: float, base: Tensor) -> Tensor:
        """The backward step from x: a projection, or a pull towards the base. All in [0, 1]."""
        ...

    def cost(self, x: Tensor, base: Tensor) -> float:
        """What the budget adds to the objective."""
        ...

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        """uint8 picture inside the budget, from x in [0, 1] and a uint8 base."""
        ...


@dataclass(frozen=True)
class Ball:
    """‖x − b‖∞ ≤ ε, in stored pictures as well: rounding never leaves it."""

    eps: float

    def prox(self, x: Tensor, step: float, base: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, base - self.eps), base + self.eps).clamp_(0, 1)

    def cost(self, x: Tensor, base: Tensor) -> float:
        return 0.0

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        levels = int(self.eps * 255 + 1e-6)
        change = ((x * 255).round() - base).clamp(-levels, levels)
        return (base + change).clamp(0, 255).to(torch.uint8)


Prox = Callable[[Tensor, float], Tensor]  # (x, step) -> x inside the budget


class Rule(Protocol):
    """How a picture moves along its gradient. `state` is the rule's own, None at first."""

    def __call__(
        self, state: Any, x: Tensor, value: float, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, Any]:
        """The next x, and the next state, after pass `number` (from 0); `value` includes the budget's cost."""
        ...

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        """The picture to keep when the passes are spent, of the last x and what came before."""
        ...


@dataclass(frozen=True, kw_only=True)
class SignedMomentum:
    """x ← prox(x − α·sign v),  v ← μ·v + g / mean|g| (Dong et al. 2018).

    α falls by a cosine to 0 over a cycle of passes, and starts again (Loshchilov and Hutter 2017): most pictures are
    finished in the first cycle, and the others have found a better place to start from.
    """

    step: float  # α at the start of a cycle, in [0, 1] units of a pixel
    momentum: float  # μ
    cycle: int  # passes

    def __call__(
        self, state: Tensor | None, x: Tensor, value: float, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, Tensor]:
        """See Rule; the state is v."""
        normalised = gradient / gradient.abs().mean().clamp(min=1e-30)
        velocity = normalised if state is None else self.momentum * state + normalised
        step = self.step * (1 + math.cos(math.pi * (number % self.cycle) / self.cycle)) / 2
        return prox(x - step * velocity.sign(), step), velocity

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class _Accepted:
    x: Tensor
    value: float
    gradient: Tensor
    step: float


@dataclass(frozen=True, kw_only=True)
class Backtracking:
    """x ← prox_λ(x − λ·g) with λ grown after a step that lowered the objective, and halved after one that did not.

    A step that raised the objective is undone; no pass is spent on the search.
    """

    step: float  # the first step moves the average pixel by so much

    def __call__(
        self, state: _Accepted | None, x: Tensor, value: float, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, _Accepted]:
        """See Rule; the state is the last step that lowered the objective."""
        if state is None:
            state = _Accepted(x, value, gradient, self.step / max(float(gradient.abs().mean()), 1e-30))
        elif value <= state.value:
            state = _Accepted(x, value, gradient, state.step * 1.5)
        else:
            state = _Accepted(state.x, state.value, state.gradient, state.step / 2)
        return prox(state.x - state.step * state.gradient, state.step), state

    def chosen(self, state: _Accepted | None, x: Tensor) -> Tensor:
        return x if state is None else state.x


def descend(
    net: Extractor,
    bases: Sequence[Tensor],
    *,
    objective: Callable[[Tensor, list[int]], Tensor],
    budgets: Sequence[Budget],
    rule: Rule,
    passes: int,
    finished: Callable[[list[Tensor], Tensor, list[int]], list[bool]],
    every: int,
) -> tuple[list[Tensor], list[int], list[str | None]]:
    """Lower `objective(features, indices)` plus the budget's cost for each picture, from its base (in [0, 1]).

    Every `every` passes, pictures that are `finished(pictures, features, indices)` leave the batch.
    Returns the pictures in [0, 1], the passes spent on each, and why it failed, or None.
    """
    pictures = [base.clone() for base in bases]
    states: list[Any] = [None] * len(pictures)
    spent = [0] * len(pictures)
    failures: list[str | None] = [None] * len(pictures)
    active = list(range(len(pictures)))
    for number in range(passes):
        x = [pictures[i].requires_grad_() for i in active]
        features = net(x)
        values = objective(features, active)
        gradients = torch.autograd.grad(values.sum(), x)
        pictures = [picture.detach() for picture in pictures]
        done = [False] * len(active)
        if number and number % every == 0:
            done = finished([pictures[i] for i in active], features.detach(), active)
        for i, value, gradient, leaves in zip(list(active), values.tolist(), gradients, done, strict=True):
            spent[i] += 1
            base, budget = bases[i], budgets[i]
            if not (math.isfinite(value) and gradient.isfinite().all()):
                failures[i] = f"the objective or its gradient is not a finite number at pass {number + 1}"
            if leaves or failures[i]:
                active.remove(i)
                continue
            value += budget.cost(pictures[i], base)
            prox = partial(budget.prox, base=base)
            pictures[i], states[i] = rule(states[i], pictures[i], value, gradient, number, prox)
        if not active:
            break
    for i in active:
        pictures[i] = rule.chosen(states[i], pictures[i])
    return pictures, spent, failures
