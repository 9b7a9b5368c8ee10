"""Many softmax heads on shared features, each with a few rows of its own: losses, gradients, convex solves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Heads:
    """H linear heads on d features for K classes."""

    weight: Tensor  # (H, d, K)
    bias: Tensor  # (H, K)

    def logits(self, features: Tensor) -> Tensor:
        """Shared (n, d) or own (H, n, d) features -> (H, n, K)."""
        return features @ self.weight + self.bias[:, None]

    def predict(self, features: Tensor) -> Tensor:
        """Probabilities (H, n, K) for shared (n, d) or own (H, n, d) features."""
        return self.logits(features).softmax(-1)


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows of H heads: shared ones, and for each head k of its own and r shared ones it does without."""

    features: Tensor  # (n, d)
    labels: Tensor  # (n,) int64
    own: Tensor  # (H, k, d)
    own_labels: Tensor  # (H, k) int64
    removed: Tensor  # (H, r) int64, rows of `features`

    @property
    def heads(self) -> int:
        return self.own.shape[0]

    def part(self, heads: Tensor) -> Rows:
        """The rows of some of the heads."""
        return replace(self, own=self.own[heads], own_labels=self.own_labels[heads], removed=self.removed[heads])

    def kept(self) -> Tensor:
        """(n, H): 0 where a head does without a shared row, else 1."""
        kept = self.features.new_ones(len(self.features), self.heads)
        return kept.scatter_(0, self.removed.T, 0.0)


def loss_and_gradient(heads: Heads, rows: Rows, kept: Tensor, classes: int) -> tuple[Tensor, Heads]:
    """Sum of cross-entropies (H,) over a head's rows, and its gradient, in closed form.

    The shared rows meet all heads in one product (n, d) × (d, H·K).
    """
    count, dim = rows.features.shape
    stacked = heads.weight.transpose(0, 1).reshape(dim, -1)
    shared = (rows.features @ stacked).view(count, -1, classes) + heads.bias
    own = rows.own @ heads.weight + heads.bias[:, None]
    shared_log, own_log = shared.log_softmax(-1), own.log_softmax(-1)
    picked = shared_log.gather(-1, rows.labels[:, None, None].expand(-1, rows.heads, 1))[..., 0]
    own_picked = own_log.gather(-1, rows.own_labels[..., None])[..., 0]
    loss = -(picked * kept).sum(0) - own_picked.sum(1)
    residual = (shared_log.exp() - F.one_hot(rows.labels, classes)[:, None]) * kept[..., None]
    own_residual = own_log.exp() - F.one_hot(rows.own_labels, classes)
    weight = (rows.features.T @ residual.reshape(count, -1)).view(dim, -1, classes).transpose(0, 1)
    weight = weight + rows.own.transpose(1, 2) @ own_residual
    return loss, Heads(weight, residual.sum(0) + own_residual.sum(1))


def solve(
    rows: Rows,
    classes: int,
    *,
    c: float,
    start: Heads | None = None,
    tolerance: float = 1e-5,
    iterations: int = 1000,
    memory: int = 10,
) -> tuple[Heads, Tensor]:
    """Multinomial logistic regression with L2 strength 1/`c`, the bias free (as in scikit-learn), H heads at once.

    With two classes `c` is scikit-learn's 2C: here both have weights, and both are penalised.
    L-BFGS (Liu and Nocedal 1989) with a line search and a stopping rule of its own for each head,
    so that no head's solution depends on another's. Returns the heads and, for each, whether the largest
    entry of the gradient of  mean loss + ‖W‖²/(2·c·n)  fell below `tolerance`.
    """
    dim = rows.features.shape[1]
    count = len(rows.features) + rows.own.shape[1] - rows.removed.shape[1]
    kept = rows.kept()

    def objective(theta: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = theta[:, : dim * classes].view(-1, dim, classes), theta[:, dim * classes :]
        loss, slope = loss_and_gradient(Heads(weight, bias), rows, kept, classes)
        value = loss / count + weight.square().sum((1, 2)) / (2 * c * count)
        gradient = torch.cat([(slope.weight + weight / c).flatten(1), slope.bias], 1) / count
        return value, gradient

    theta = rows.features.new_zeros(rows.heads, (dim + 1) * classes)
    if start is not None:
        theta = torch.cat([start.weight.expand(rows.heads, -1, -1).flatten(1), start.bias.expand(rows.heads, -1)], 1)
    theta, converged = _lbfgs(objective, theta, tolerance, iterations, memory)
    return Heads(theta[:, : dim * classes].reshape(-1, dim, classes), theta[:, dim * classes :]), converged


def _lbfgs(
    objective: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor, tolerance: float, iterations: int, memory: int
) -> tuple[Tensor, Tensor]:
    value, gradient = objective(theta)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # (s, y, 1 / s·y), a row a head
    resting = torch.zeros_like(value, dtype=torch.bool)  # heads that rounding lets descend no further
    for _ in range(iterations):
        running = ~resting & (gradient.abs().amax(1) > tolerance)
        if not running.any():
            break
        direction = _two_loops(gradient, history)
        slope = (direction * gradient).sum(1)
        downhill = (slope < 0)[:, None]
        direction = torch.where(downhill, direction, -gradient)
        slope = torch.where(downhill[:, 0], slope, -gradient.square().sum(1))
        step = torch.ones_like(value) if history else 1 / gradient.norm(dim=1).clamp(min=1)
        step = step * running
        new_value, new_gradient = objective(theta + step[:, None] * direction)
        for _ in range(25):  # backtracking, head by head
            short = running & ~_lower(value, new_value, step * slope, (direction * new_gradient).sum(1) / slope)
            if not short.any():
                break
            step = torch.where(short, step * 0.4, step)
            new_value, new_gradient = objective(theta + step[:, None] * direction)
        else:
            resting, step = resting | short, torch.where(short, 0.0, step)
            new_value, new_gradient = objective(theta + step[:, None] * direction)
        s, y = step[:, None] * direction, new_gradient - gradient
        curvature = (s * y).sum(1)
        history = [*history[-memory + 1 :], (s, y, torch.where(curvature > 0, 1 / curvature, 0.0))]
        theta, value, gradient = theta + s, new_value, new_gradient
    return theta, gradient.abs().amax(1) <= tolerance


def _lower(value: Tensor, new_value: Tensor, promised: Tensor, remaining: Tensor) -> Tensor:
    """Armijo's condition; or, where rounding hides what a step gains, that of Hager and Zhang (2005) on the slope.

    `promised`: step times slope; `remaining`: the slope at the step's end as a share of that at its start.
    """
    armijo = new_value <= value + 1e-4 * promised
    level = new_value <= value + 10 * torch.finfo(value.dtype).eps * value.abs()
    return armijo | (level & (remaining >= -0.9998))


def _two_loops(gradient: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    q, weights = -gradient, []
    for s, y, inverse in reversed(history):
        weights.append(inverse * (s * q).sum(1))
        q = q - weights[-1][:, None] * y
    if history:
        s, y, inverse = history[-1]
        scale = torch.where(inverse > 0, 1 / (inverse * y.square().sum(1)).clamp(min=1e-30), 1.0)
        q = q * scale[:, None]
    for (s, y, inverse), weight in zip(history, reversed(weights), strict=True):
        q = q + (weight - inverse * (y * q).sum(1))[:, None] * s
    return q
