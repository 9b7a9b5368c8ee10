"""Victims: the heads that are trained on frozen features, hundreds at once, and the user's own training code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from poisonfrogs.logistic import Heads, Rows, solve
from poisonfrogs.types import InputError, Stop, Test

AT_ONCE = (
    1 << 25
)  # answers (pictures times classes times heads) that a solver holds, about five float64 of each: 1.3 GB
SMALL = 64  # heads times classes up to which a second thread saves less than it has to be waited for


class Recipe(Protocol):
    """How a head is trained on features: the same seed and rows give the same head, alone or among others."""

    def __call__(self, rows: Rows, classes: int, *, seed: int) -> Heads: ...


@dataclass(frozen=True, kw_only=True)
class PaperHead:
    """The head of Shafahi et al. 2018, section 3: from scratch, Adam, mini-batches."""

    epochs: int = 100
    learning_rate: float = 0.01
    batch_size: int = 128  # not given in the paper

    def __call__(self, rows: Rows, classes: int, *, seed: int) -> Heads:
        """All heads see the rows in one order, their own rows last in the numbering."""
        generator = torch.Generator().manual_seed(seed)
        count, dim = rows.features.shape
        own = rows.own.shape[1]
        examples = _Examples.of(rows, classes)
        # heads last: the products and the softmax run along them
        theta = _initial(dim, classes, generator).to(rows.features)[..., None].repeat(1, 1, rows.heads)
        moments = torch.zeros_like(theta), torch.zeros_like(theta)
        step = 0
        for _ in range(self.epochs):
            order = torch.randperm(count + own, generator=generator).to(rows.features.device)
            for batch in order.split(self.batch_size):
                step += 1
                gradient = examples.mean_gradient(theta, batch)
                _adam(theta, gradient, moments, step, self.learning_rate)
        weight = theta.permute(2, 0, 1).contiguous()
        return Heads(weight[:, :dim].contiguous(), weight[:, dim].contiguous())


@dataclass(frozen=True, kw_only=True)
class LogisticHead:
    """A converged logistic regression with L2 strength 1/C on every class's weights.

    That is scikit-learn's C; with two classes, where it has one vector of weights, its 2C.
    """

    c: float

    def __call__(self, rows: Rows, classes: int, *, seed: int) -> Heads:
        """Convex: the seed changes nothing. Solved in float64."""
        precise = Rows(rows.features.double(), rows.labels, rows.own.double(), rows.own_labels, rows.removed)
        shared_only = Rows(
            precise.features, rows.labels, precise.own[:1, :0], rows.own_labels[:1, :0], rows.removed[:1, :0]
        )
        clean, _ = solve(shared_only, classes, c=self.c, tolerance=1e-6)
        portions = torch.arange(rows.heads).split(max(AT_ONCE // (len(rows.features) * classes), 1))
        found = [solve(precise.part(some), classes, c=self.c, start=clean, tolerance=1e-8)[0] for some in portions]
        weight, bias = torch.cat([heads.weight for heads in found]), torch.cat([heads.bias for heads in found])
        return Heads(weight.to(rows.features), bias.to(rows.features))


def recipe(text: str) -> Recipe:
    """`paper` or `logistic:C`.

    >>> recipe("logistic:100")
    LogisticHead(c=100.0)
    """
    kind, _, strength = text.partition(":")
    if text == "paper":
        return PaperHead()
    try:
        c = float(strength)
    except ValueError:
        c = 0.0
    if kind != "logistic" or not 0 < c < float("inf"):
        raise InputError(f"--head {text!r} is unknown; expected paper, logistic:C with C > 0, or certified")
    return LogisticHead(c=c)


def _initial(dim: int, classes: int, generator: torch.Generator) -> Tensor:
    """(d + 1, K), uniform in ±1/√d as torch.nn.Linear; the last row is the bias."""
    uniform: Tensor = torch.rand(dim + 1, classes, generator=generator)
    return uniform.mul(2).sub(1).div(dim**0.5)


@dataclass(frozen=True, eq=False)
class _Examples:
    """Rows as a mini-batch takes them: a 1 for the bias behind each feature, labels one-hot."""

    shared: Tensor  # (n, d + 1)
    labels: Tensor  # (n, K, 1)
    own: Tensor  # (H, k, d + 1)
    own_labels: Tensor  # (H, k, K)
    kept: Tensor | None  # (n, H), None where no head does without a shared row

    @classmethod
    def of(cls, rows: Rows, classes: int) -> _Examples:
        labels, own_labels = (F.one_hot(some, classes).to(rows.features) for some in (rows.labels, rows.own_labels))
        return cls(
            shared=F.pad(rows.features, (0, 1), value=1.0),
            labels=labels[..., None],
            own=F.pad(rows.own, (0, 1), value=1.0),
            own_labels=own_labels,
            kept=rows.kept() if rows.removed.numel() else None,
        )

    def mean_gradient(self, theta: Tensor, batch: Tensor) -> Tensor:
        """(d + 1, K, H): gradient of the mean cross-entropy at theta of the rows `batch`, the heads' own last."""
        count = len(self.shared)
        chosen, own = batch[batch < count], batch[batch >= count] - count
        x = self.shared[chosen]
        probabilities = (x @ theta.flatten(1)).view(-1, *theta.shape[1:]).softmax(1)
        # numbers too small for float32's full precision add nothing, and make the product below three times as slow
        residual = F.hardshrink(probabilities - self.labels[chosen], torch.finfo(x.dtype).tiny)
        size: int | Tensor = len(batch)
        if self.kept is not None:
            kept = self.kept[chosen]
            residual, size = residual * kept[:, None], (kept.sum(0) + len(own)).clamp(min=1)
        slope = (x.T @ residual.flatten(1)).view_as(theta)
        if len(own):
            x = self.own[:, own]
            residual = (x @ theta.permute(2, 0, 1)).softmax(-1) - self.own_labels[:, own]
            slope += (x.transpose(1, 2) @ residual).permute(1, 2, 0)
        return slope / size


def _adam(theta: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], step: int, rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015) with its usual constants, in place."""
    first, second = moments
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
    theta.addcdiv_(first, scale, value=-rate / (1 - 0.9**step))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The attacker's guess at the victim: when do its poisons suffice? It never sees the judge or its seed.

    Believed only if both a converged logistic head and a short training by the paper's recipe put
    the target into the base class: a poison should not live by one recipe. Poisons that replace their
    bases are guessed at as if they were added.
    """

    features: Tensor  # (n, d) training features, or a sample of them
    labels: Tensor  # (n,)
    classes: int
    clean: Heads
    seed: int
    confidence: float = 0.95  # of the base class, at the target
    c: float = 100.0
    epochs: int = 20
    tolerance: float = 5e-5  # largest entry of the logistic head's gradient

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, *, seed: int, sample: int = 4096) -> Surrogate:
        """Train the clean head that the others start from, on at most `sample` rows, of every class one at least."""
        if len(features) > sample:
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
            rank = np.arange(len(order))
            rank[np.unique(labels[order].numpy(), return_index=True)[1]] = -1  # the first of each class
            chosen = order[np.sort(rank.argsort(kind="stable")[:sample])]
            features, labels = features[chosen], labels[chosen]
        none = torch.empty(1, 0, dtype=torch.int64)
        clean, _ = solve(Rows(features, labels, features[None, :0], none, none), classes, c=cls.c, tolerance=1e-4)
        return cls(features, labels, classes, clean, seed)

    @property
    def constants(self) -> dict[str, float]:
        """What no option of an audit sets."""
        return {
            "confidence": self.confidence,
            "c": self.c,
            "epochs": self.epochs,
            "tolerance": self.tolerance,
            "pictures": len(self.features),
        }

    def watch(self, *, targets: Tensor, labels: Tensor, poisons: int) -> Stop:
        """When `poisons` consecutive pictures a target suffice: targets (t, d), base classes `labels` (t,)."""
        # the last converged head of each target: between two looks it moves little
        weight, bias = self.clean.weight.repeat(len(targets), 1, 1), self.clean.bias.repeat(len(targets), 1)
        recipe = PaperHead(epochs=self.epochs)

        def believed(heads: Heads, trials: list[int]) -> Tensor:
            probabilities = heads.predict(targets[trials][:, None])[:, 0]
            return probabilities.gather(1, labels[trials][:, None])[:, 0] > self.confidence

        def converged(rows: Rows, trials: list[int]) -> Tensor:
            start = Heads(weight[trials], bias[trials])
            heads, _ = solve(rows, self.classes, c=self.c, start=start, tolerance=self.tolerance)
            weight[trials], bias[trials] = heads.weight, heads.bias
            return believed(heads, trials)

        def both(rows: Rows, trials: list[int]) -> Tensor:
            fell = converged(rows, trials)
            likely = fell.nonzero()[:, 0]
            if len(likely):
                heads = recipe(rows.part(likely), self.classes, seed=self.seed)
                fell[likely] = believed(heads, [trials[i] for i in likely])
            return fell

        def of_pictures(test: Callable[[Rows, list[int]], Tensor]) -> Test:
            def of_features(features: Tensor, indices: list[int]) -> Tensor:
                left = Counter(i // poisons for i in indices)
                whole = [trial for trial, count in left.items() if count == poisons]  # the rest has failed in part
                member = torch.tensor([left[i // poisons] == poisons for i in indices])
                own = features[member].to(self.features).view(len(whole), poisons, features.shape[1])
                done = torch.zeros(len(indices), dtype=torch.bool)
                done[member] = test(self._rows(own, labels[whole]), whole).repeat_interleave(poisons)
                return done

            return _one_thread()(of_features) if len(targets) * self.classes <= SMALL else of_features

        return Stop(likely=of_pictures(converged), sure=of_pictures(both))

    def _rows(self, own: Tensor, labels: Tensor) -> Rows:
        own_labels = labels[:, None].expand(-1, own.shape[1]).contiguous()
        return Rows(self.features, self.labels, own, own_labels, torch.empty(len(own), 0, dtype=torch.int64))
