"""What an attacker of certificates needs, written without the code under test: every small change of a training set, and the arithmetic in plain Python."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

LABELS = (10, 20, 30)
NEW = (5, 99)  # labels nobody has seen: one sorts before the others, one after

Example = tuple[tuple[float, ...], int]


class Tiny(NamedTuple):
    """A training set small enough to try every change of it, and rows to ask about."""

    X: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    pool: np.ndarray  # directions that the examples were drawn from


def tiny(rng: np.random.Generator, most: int = 9) -> Tiny:
    """Few directions, so that cosines and whole examples coincide often; classes of very different sizes."""
    d, n = int(rng.integers(2, 5)), int(rng.integers(3, most + 1))
    pool = rng.integers(-2, 3, size=(int(rng.integers(2, 6)), d)).astype(float)
    pool[~pool.any(1), 0] = 1.0
    X = pool[rng.integers(len(pool), size=n)] * rng.choice([1.0, 3.0], size=(n, 1))
    X += rng.choice([0.0, 0.3]) * rng.normal(size=X.shape)
    classes = int(rng.integers(1, 4))
    y = rng.choice(LABELS[:classes], size=n, p=rng.dirichlet(np.full(classes, 0.6)))
    rows = np.stack([pool[0], pool[-1] + 0.2 * rng.normal(size=d)])
    return Tiny(X, y, rows, pool)


def changes(
    train: Tiny, contents: np.ndarray, labels: Sequence[int], count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every training set that `count` operations make: removals of examples and insertions of `contents` under `labels`."""
    here = Counter((tuple(x), int(label)) for x, label in zip(train.X.tolist(), train.y, strict=True))
    there = list(dict.fromkeys((tuple(x), label) for x in contents.tolist() for label in labels))
    for removals in range(count + 1):
        removable = [example for example, times in here.items() for _ in range(min(times, removals))]
        for gone in sorted(set(itertools.combinations(sorted(removable), removals))):
            left = list((here - Counter(gone)).elements())
            for new in itertools.combinations_with_replacement(there, count - removals):
                changed = [*left, *new]
                assert changed, "a radius that reaches the last example"
                yield np.array([x for x, _ in changed]), np.array([label for _, label in changed])


def quiet_fit(model, X, y):
    """Fit; rows left out are not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(X, y)


def whole(row: Sequence[float]) -> list[int]:
    """A row at length 2048, in whole numbers."""
    top = max(abs(value) for value in row)
    row = [value / top for value in row]
    length = math.sqrt(math.fsum(value * value for value in row))
    return [round(2048 * value / length) for value in row]


def partition(row: Sequence[float], n_partitions: int) -> int:
    """Where the example goes: the first 8 bytes of BLAKE2b of its whole numbers."""
    content = b"".join(value.to_bytes(2, "little", signed=True) for value in whole(row))
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest()[:8], "big") % n_partitions


def steered(row: np.ndarray, wanted: int, n_partitions: int, rng: np.random.Generator) -> np.ndarray:
    """A neighbour of `row` that its content's hash puts into the wanted partition."""
    for _ in range(200 * n_partitions):
        near = row / np.linalg.norm(row) + 1e-3 * rng.normal(size=len(row))
        if partition(near.tolist(), n_partitions) == wanted:
            return near
    raise AssertionError("no neighbour in that partition")


def product(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def votes_within(train: Tiny, row: Sequence[float], threshold: float) -> Counter[int]:
    """Labels of the examples whose cosine with the row is at least the threshold."""
    asked = whole(row)
    near = (product(whole(x), asked) >= threshold * 2048**2 for x in train.X.tolist())
    return Counter(int(label) for label, is_near in zip(train.y, near, strict=True) if is_near)


def nearest(train: Tiny, row: Sequence[float]) -> list[tuple[int, int]]:
    """Cosine, in whole numbers, and label of every example, nearest first; the smaller label first among equals."""
    asked = whole(row)
    found = ((product(whole(x), asked), int(label)) for x, label in zip(train.X.tolist(), train.y, strict=True))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def _against(order: list[tuple[int, int]], own: int, rival: int) -> list[int]:
    """+1 for our examples, -1 for the rival's, nearest first; among equals the rival's first, ours last."""
    ordered = sorted(order, key=lambda pair: (-pair[0], pair[1] == own, pair[1] != rival))
    return [int(label == own) - int(label == rival) for _, label in ordered]


def lead_of_nearest(order: list[tuple[int, int]], k: int, own: int, rival: int) -> int:
    """Of our votes over the rival's."""
    return sum(_against(order, own, rival)[:k])


def fewest_operations(order: list[tuple[int, int]], k: int, own: int) -> int:
    """The fewest insertions and removals after which some label has as many of the k nearest as `own`, every tie against it.

    Every subset of the examples is taken away; what is inserted is nearest of all.
    """
    best = len(order) + k
    for rival in {*LABELS, *NEW} - {own}:
        steps = _against(order, own, rival)
        for kept in itertools.product([True, False], repeat=len(steps)):
            left = list(itertools.compress(steps, kept))
            removed = len(steps) - len(left)
            for inserted in range(min(k, best - removed - 1) + 1):
                if sum(left[: k - inserted]) <= inserted:
                    best = min(best, removed + inserted)
                    break
    return best


def fewest_of_many(order: list[tuple[int, int]], k: int, own: int) -> int:
    """As above, for more examples: it is best to take away ours, the nearest first."""
    best = len(order) + k
    for rival in {*LABELS, *NEW} - {own}:
        steps = _against(order, own, rival)
        while True:
            leads = list(itertools.accumulate(steps, initial=0))
            removed = len(order) - len(steps)
            wins = (i for i in range(k + 1) if leads[min(k - i, len(steps))] <= i)
            best = min(best, removed + next(wins))
            if 1 not in steps:
                break
            steps.remove(1)
    return best


def election(tables: np.ndarray) -> np.ndarray:
    """The run-off of the heads' scores (tables, heads, labels): its winner in each table. Unknown labels score -inf."""
    voting = np.isfinite(tables).any(2)
    first = np.where(voting, tables.argmax(2), -1)
    votes = np.stack([(first == label).sum(1) for label in range(tables.shape[2])], axis=1)
    ranked = np.argsort(-votes, axis=1, kind="stable")
    each = np.arange(len(tables))
    one, two = tables[each, :, ranked[:, 0]], tables[each, :, ranked[:, 1]]
    return np.where((two > one).sum(1) > (one > two).sum(1), ranked[:, 1], ranked[:, 0])


def softmax_head(z: np.ndarray, member: np.ndarray, times: np.ndarray, alpha: float, start: np.ndarray) -> np.ndarray:
    """Softmax regression on rows that count `times` each, by Newton's method with halved steps: weights (d, classes)."""
    weight, classes = start, member.shape[1]

    def loss(weight: np.ndarray) -> float:
        return float(
            (times * (logsumexp(z @ weight, axis=1) - (z @ weight * member).sum(1))).sum()
            + alpha / 2 * (weight**2).sum()
        )

    for _ in range(100):
        p = softmax(z @ weight, axis=1)
        slope = z.T @ (times[:, None] * (p - member)) + alpha * weight
        if np.linalg.norm(slope) < 1e-9 * alpha:
            return weight
        bend = times[:, None, None] * (p[:, :, None] * np.eye(classes) - p[:, :, None] * p[:, None, :])
        hessian = np.einsum("ni,nab,nj->iajb", z, bend, z).reshape(weight.size, weight.size) + alpha * np.eye(
            weight.size
        )
        step = np.linalg.solve(hessian, slope.ravel()).reshape(weight.shape)
        length = next(
            s for s in 0.5 ** np.arange(40) if loss(weight - s * step) <= loss(weight) + 1e-13 * abs(loss(weight))
        )
        weight = weight - length * step
    raise AssertionError("Newton's method did not arrive")


def clusters(rng, n: int, d: int, classes: int) -> Tiny:
    """Overlapping classes with some wrong labels; the rows asked about are of the same kind."""
    centres = rng.normal(size=(classes, d))
    y = rng.integers(0, classes, n + 12)
    X = centres[y] + rng.normal(size=(n + 12, d))
    y = np.where(rng.random(len(y)) < 0.05, rng.integers(0, classes, len(y)), y)
    return Tiny(X[:n], y[:n], X[n:], centres)


def worst(train: Tiny, row: np.ndarray, own: int, rival: int, removed: int, inserted: np.ndarray):
    """Without the `removed` nearest examples of the row's class, and with `inserted` under the rival's label."""
    unit = train.X / np.linalg.norm(train.X, axis=1, keepdims=True)
    nearness = np.where(train.y == own, unit @ row, -np.inf)
    kept = np.sort(np.argsort(-nearness, kind="stable")[removed:])
    return np.vstack([train.X[kept], inserted]), np.append(train.y[kept], [rival] * len(inserted))
