"""The one descent loop: forward-backward splitting over many pictures at once, in stacks of one size."""

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
    """How far a poison may go from its base; the backward step of forward-backward splitting.

    `x` and `base` are stacks (n, 3, h, w) in [0, 1], `step` (n,).
    """

    def prox(self, x: Tensor, step: Tensor, base: Tensor) -> Tensor:
        """The backward step from x: a projection, or a pull towards the base."""
        ...

    def cost(self, x: Tensor, base: Tensor) -> Tensor:
        """What the budget adds to the objective of each picture: (n,)."""
        ...

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        """One uint8 picture (3, h, w) inside the budget, from x in [0, 1] and a uint8 base."""
        ...


@dataclass(frozen=True)
class Ball:
    """‖x − b‖∞ ≤ ε, in stored pictures as well: rounding never leaves it."""

    eps: float

    def prox(self, x: Tensor, step: Tensor, base: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, base - self.eps), base + self.eps).clamp_(0, 1)

    def cost(self, x: Tensor, base: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def quantise(self, x: Tensor, base: Tensor) -> Tensor:
        levels = int(self.eps * 255 + 1e-6)
        change = ((x * 255).round() - base).clamp(-levels, levels)
        return (base + change).clamp(0, 255).to(torch.uint8)


Prox = Callable[[Tensor, Tensor], Tensor]  # (x, step (n,)) -> x inside the budget


class Rule(Protocol):
    """How a stack of pictures (n, 3, h, w) moves along its gradient.

    `state` is the rule's own, None at first, then tensors of n rows.
    """

    def __call__(
        self, state: Any, x: Tensor, value: Tensor, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The next x, and the next state, after pass `number` (from 0); `value` (n,) includes the budget's cost."""
        ...

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        """The pictures to keep when the passes are spent, of the last x and what came before."""
        ...


@dataclass(frozen=True, kw_only=True)
class SignedMomentum:
    """x ← prox(x − α·sign v),  v ← μ·v + g / mean|g| (Dong et al. 2018).

    α falls by a cosine to 0 over a cycle of passes, and starts again (Loshchilov and Hutter 2017), smaller: most
    pictures are finished in the first cycle, and the others are near, where the first step would lose them.
    """

    step: float  # α at the start of the first cycle, in [0, 1] units of a pixel
    momentum: float  # μ
    cycle: int  # passes
    restart: float  # α at the start of every later cycle, over that of the first

    def __call__(
        self, state: Any, x: Tensor, value: Tensor, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, tuple[Tensor]]:
        """See Rule; the state is v."""
        normalised = gradient / spread(gradient.abs().flatten(1).mean(1).clamp(min=1e-30))
        velocity = normalised if state is None else self.momentum * state[0] + normalised
        highest = self.step if number < self.cycle else self.restart * self.step
        step = highest * (1 + math.cos(math.pi * (number % self.cycle) / self.cycle)) / 2
        return prox(x - step * velocity.sign(), x.new_full((len(x),), step)), (velocity,)

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class Backtracking:
    """x ← prox_λ(x − λ·g) with λ grown after a step that lowered the objective, and halved after one that did not.

    A step that raised the objective is undone; no pass is spent on the search. A level one is kept, and so is λ: where
    nothing moves, at a perfect collision or without a gradient, it would grow without end.
    """

    step: float  # the first step moves the average pixel by so much

    def __call__(
        self, state: Any, x: Tensor, value: Tensor, gradient: Tensor, number: int, prox: Prox
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See Rule; the state is the last step that was kept: x, its value, its gradient and λ."""
        if state is None:
            steps = self.step / gradient.abs().flatten(1).mean(1).clamp(min=1e-30)
            state = x, value, gradient, steps
        else:
            before, lowest, slope, steps = state
            kept = value <= lowest
            state = (
                torch.where(spread(kept), x, before),
                torch.where(kept, value, lowest),
                torch.where(spread(kept), gradient, slope),
                steps * torch.where(value < lowest, 1.5, torch.where(kept, 1.0, 0.5)),
            )
        best, _, slope, steps = state
        return prox(best - spread(steps) * slope, steps), state

    def chosen(self, state: Any, x: Tensor) -> Tensor:
        return x if state is None else state[0]


def spread(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to go with a stack of pictures."""
    return values.view(-1, 1, 1, 1)


@dataclass(eq=False)
class _Stack:
    """Pictures of one size that are still on their way."""

    indices: list[int]
    base: Tensor  # (n, 3, h, w)
    x: Tensor
    budget: Budget
    state: Any = None

    def keep(self, rows: list[int]) -> None:
        self.indices = [self.indices[row] for row in rows]
        self.base, self.x = self.base[rows], self.x[rows]
        self.state = None if self.state is None else tuple(part[rows] for part in self.state)


def descend(
    net: Extractor,
    bases: Sequence[Tensor],
    *,
    objective: Callable[[Tensor, list[int]], Tensor],
    budget: Callable[[int], Budget],
    rule: Rule,
    passes: int,
    finished: Callable[[list[Tensor], Tensor, list[int]], list[bool]],
    every: int,
) -> tuple[list[Tensor], list[int], list[str | None]]:
    """Lower `objective(features, indices)` plus the budget's cost for each picture, from its base (in [0, 1]).

    `budget`: of a picture with so many values. Every `every` passes, pictures that are
    `finished(pictures, features, indices)` leave the batch. Returns the pictures in [0, 1] (of one that fails the last
    that is finite), the passes spent on each, and why it failed, or None.
    """
    pictures = list(bases)
    spent = [0] * len(pictures)
    failures: list[str | None] = [None] * len(pictures)
    stacks = _stacked(bases, budget)
    for number in range(passes):
        leaves = [stack.x.requires_grad_() for stack in stacks]
        held = {i: picture for stack in stacks for i, picture in zip(stack.indices, stack.x, strict=True)}
        active = sorted(held)
        features = net([held[i] for i in active])
        values = objective(features, active)
        gradients = torch.autograd.grad(values.sum(), leaves)
        value_of = dict(zip(active, values.detach(), strict=True))
        done: set[int] = set()
        if number and number % every == 0:
            said = finished([held[i].detach() for i in active], features.detach(), active)
            done = {i for i, yes in zip(active, said, strict=True) if yes}
        for stack, gradient in zip(list(stacks), gradients, strict=True):
            stack.x = stack.x.detach()
            value = torch.stack([value_of[i] for i in stack.indices])
            finite = (value.isfinite() & gradient.flatten(1).isfinite().all(1)).tolist()
            for i, picture, fine in zip(stack.indices, stack.x, finite, strict=True):
                spent[i] += 1
                if fine or picture.isfinite().all():
                    pictures[i] = picture
                if not fine:
                    failures[i] = f"the objective or its gradient is not a finite number at pass {number + 1}"
            stays = [row for row, i in enumerate(stack.indices) if finite[row] and i not in done]
            if not stays:
                stacks.remove(stack)
                continue
            if len(stays) < len(stack.indices):
                stack.keep(stays)
                value, gradient = value[stays], gradient[stays]
            value = value.double() + stack.budget.cost(stack.x, stack.base)
            prox = partial(stack.budget.prox, base=stack.base)
            stack.x, stack.state = rule(stack.state, stack.x, value, gradient, number, prox)
        if not stacks:
            break
    for stack in stacks:
        for i, picture in zip(stack.indices, rule.chosen(stack.state, stack.x), strict=True):
            pictures[i] = picture
    return pictures, spent, failures


def by_size(pictures: Sequence[Tensor]) -> list[list[int]]:
    """Which pictures have one size, and so make a stack; by their numbers.

    >>> by_size([torch.zeros(3, 2, 2), torch.zeros(3, 4, 2), torch.ones(3, 2, 2)])
    [[0, 2], [1]]
    """
    sizes: dict[torch.Size, list[int]] = {}
    for i, picture in enumerate(pictures):
        sizes.setdefault(picture.shape, []).append(i)
    return list(sizes.values())


def _stacked(bases: Sequence[Tensor], budget: Callable[[int], Budget]) -> list[_Stack]:
    found = []
    for indices in by_size(bases):
        stacked = torch.stack([bases[i] for i in indices])
        found.append(_Stack(indices, stacked, stacked.clone(), budget(stacked[0].numel())))
    return found
