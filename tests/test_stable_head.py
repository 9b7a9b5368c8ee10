"""The stable head: its constants, and insertions and removals at every angle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import expit, logsumexp
from sklearn.base import clone

import certificates as attack
from certificates import clusters, worst
from poisonfrogs.certified import StableHead
from poisonfrogs.certified.stable import _share

pytestmark = pytest.mark.usefixtures("one_thread")


def length(d: int) -> float:
    """No row, rounded to 1/2048 and extended by its constant, is longer."""
    return float(np.hypot(1 + np.sqrt(d) / 4096, 1))


def test_the_constants_of_the_stable_head():
    """The gradient of one example, by finite differences, at the weights and rows where it is longest."""
    rng = np.random.default_rng(8)
    longest = 0.0
    for _ in range(200):
        d, classes, scale = int(rng.integers(2, 9)), int(rng.integers(2, 5)), 10 ** rng.uniform(-1, 2)
        z = np.append(np.array(attack.whole(rng.normal(size=d).tolist())) / 2048, 1.0)
        assert np.linalg.norm(z) <= length(d)
        weight, label = scale * rng.normal(size=(d + 1, classes)), int(rng.integers(classes))
        loss = lambda flat: logsumexp(z @ flat.reshape(weight.shape)) - (z @ flat.reshape(weight.shape))[label]  # noqa: B023, E731
        gradient = approx_fprime(weight.ravel(), loss, 1e-6)
        assert np.linalg.norm(gradient) <= np.sqrt(2) * length(d) * (1 + 1e-4)
        longest = max(longest, np.linalg.norm(gradient) / np.sqrt(2) / length(d))
    assert longest > 0.98


def margins(model: StableHead, rows: np.ndarray) -> np.ndarray:
    """Differences of the logits of every two classes (rows, classes, classes)."""
    log = np.log(model.predict_proba(rows))
    return log[:, :, None] - log[:, None, :]


class Copies(NamedTuple):
    """A training set of few examples, each many times, the head on it, and a row."""

    X: np.ndarray
    codes: np.ndarray
    times: np.ndarray
    row: np.ndarray
    alpha: float

    def certified(self, classes: int) -> tuple[int, int]:
        """The row's class and radius, by the code under test."""
        X, y = np.repeat(self.X, self.times, axis=0), np.repeat(self.codes, self.times)
        codes, radius, _ = StableHead(self.alpha, classes=range(classes)).fit(X, y).answers(self.row[None])
        return int(codes[0]), int(radius[0])


def copies(rng, classes: int) -> Copies:
    d, m = int(rng.integers(2, 5)), int(rng.integers(1, 6))
    row = rng.normal(size=d)
    X = rng.choice([0, 1]) * row + rng.choice([0.05, 0.3, 1]) * rng.normal(size=(m, d))
    codes = rng.integers(0, classes, m) if rng.random() < 0.6 else np.zeros(m, dtype=int)
    return Copies(X, codes, rng.integers(1, rng.choice([4, 30, 300]), m), row, float(10 ** rng.uniform(0, 3)))


def extended(rows: np.ndarray) -> np.ndarray:
    return np.array([[*attack.whole(row), 2048] for row in rows.tolist()]) / 2048


def angled(row: np.ndarray, towards: np.ndarray, rng) -> np.ndarray:
    """Rows at all angles to one, in the plane that it makes with the weights."""
    basis = np.linalg.qr(np.stack([row, towards, rng.normal(size=len(row))], axis=1))[0]
    angle = np.append(np.linspace(-1.5, 1.5, 9), 3 * rng.normal(size=2))
    return np.cos(angle)[:, None] * row / np.linalg.norm(row) + np.sin(angle)[:, None] * basis[:, 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_stable_head_stands_insertions_at_every_angle(classes):
    """By a second solver: removals of the nearest own examples, insertions for every rival at every angle.

    For two classes the strongest of these attacks works a tenth beyond the radius: nothing of that bound can be given away.
    """
    rng = np.random.default_rng(classes)
    tightest, certified = np.inf, 0
    for _ in range(60 if classes == 2 else 25):
        case = copies(rng, classes)
        own, radius = case.certified(classes)
        if not radius:
            continue
        certified += 1
        z, row, member = extended(case.X), extended(case.row[None])[0], np.eye(classes)[case.codes]
        clean = attack.softmax_head(z, member, case.times, case.alpha, np.zeros((len(row), classes)))
        for rival in set(range(classes)) - {own}:
            for new in extended(angled(case.row, clean[:-1, own] - clean[:-1, rival], rng)):
                rows, labels = np.vstack([z, new]), np.vstack([member, np.eye(classes)[rival]])
                for removed, more in [(0, 1.0), (0, 1.1), (0, 2.0), (radius // 2, 1.0), (radius, 1.0)]:
                    left, missing = without(case, z @ row, own, removed)
                    times = np.append(left, (radius - removed + missing) * more)
                    margin = (
                        row
                        @ attack.softmax_head(rows, labels, times, case.alpha, clean)
                        @ (member_of(own, rival, classes))
                    )
                    assert margin > 0 or more > 1, (case, own, rival, new, times)
                    tightest = min(tightest, more if margin <= 0 else np.inf)
    assert certified > 10
    assert tightest <= 1.1 or classes > 2


def member_of(own: int, rival: int, classes: int) -> np.ndarray:
    return np.eye(classes)[own] - np.eye(classes)[rival]


def without(case: Copies, nearness: np.ndarray, own: int, removed: int) -> tuple[np.ndarray, int]:
    """How often each example is left when the nearest of class `own` are gone, and how many more there would have been to remove."""
    left = case.times.copy()
    for i in sorted(np.flatnonzero(case.codes == own), key=lambda i: -nearness[i]):
        gone = min(removed, left[i])
        left[i], removed = left[i] - gone, removed - gone
    return left, removed


def test_the_angle_of_the_two_class_bound():
    """The share is the maximum over the angle, from above and not by much."""
    fine = np.linspace(0, np.pi, 200_001)
    for slack in (0.0, 1e-5, 0.3):
        reach = np.array([0.0, 1e-3, 0.1, 1.0, 3.0, 10.0, 100.0, 1e4])
        truth = np.array([((1 + np.cos(fine)) / 2 * expit(m * np.sin(fine) + slack)).max() for m in reach])
        share = _share(reach, slack)
        assert (share >= truth).all()
        assert (share <= 1).all()
        assert (share[reach <= 10] < truth[reach <= 10] + 0.01).all()


def test_the_margin_moves_as_little_as_proved():
    """Measured: insertions of anything and removals, on more classes; the margin of any row by 2 r R² / alpha at most."""
    rng = np.random.default_rng(11)
    most = 0.0
    for classes, alpha in [(2, 100.0), (3, 400.0), (5, 100.0)]:
        train = clusters(rng, 200, 8, classes)
        model = StableHead(alpha, classes=range(classes)).fit(train.X, train.y)
        codes, radii, _ = model.answers(train.rows)
        before = margins(model, train.rows)
        for count in (1, 5, 20, 60):
            for row, own in zip(train.rows[:4], codes[:4].tolist(), strict=True):
                for removed in (0, count // 2):
                    X, y = worst(train, row, own, (own + 1) % classes, removed, np.tile(row, (count - removed, 1)))
                    after = clone(model).fit(X, y)
                    moved = np.abs(margins(after, train.rows) - before).max()
                    most = max(most, moved * alpha / (2 * count * length(8) ** 2))
                    assert moved <= 2 * count * length(8) ** 2 / alpha + 1e-5
                    assert (after.predict(train.rows) == codes)[radii >= count].all()
    assert most > 0.4


def test_a_class_that_vanishes():
    """Without `classes`, the head forgets a class whose only example is removed: one operation."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        centres = rng.normal(size=(6, 3))
        cluster = rng.choice(6, 2000, p=rng.dirichlet(np.full(6, 0.5)))
        X = np.vstack([rng.normal(size=(1, 3)), centres[cluster] + 0.4 * rng.normal(size=(2000, 3))])
        y = np.append(2, cluster // 3)
        rows = rng.normal(size=(2000, 3))
        model = StableHead(600.0).fit(X, y)
        after = StableHead(600.0).fit(X[1:], y[1:])
        assert (after.predict(rows) == model.predict(rows))[model.certified_radius(rows) >= 1].all()


def test_a_tie_is_never_certified():
    """So strong a penalty leaves no weight at all."""
    model = StableHead(1e12).fit([[1, 0], [0, 1], [1, 0], [0, 1]], [0, 1, 0, 1])
    assert model.certified_radius([[1.0, 0.0], [0.0, 1.0]]).tolist() == [0, 0]


def test_no_removal_stops_the_stable_head():
    """What can be solved with an example can be solved without it."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        d, n, alpha = int(rng.integers(2, 5)), int(rng.integers(25, 40)), 10 ** rng.uniform(-1, 0)
        X, y = rng.normal(size=(n, d)), np.append(2, rng.integers(0, 2, n - 1))
        try:
            StableHead(alpha, classes=range(3)).fit(X, y)
        except ValueError:
            continue
        StableHead(alpha, classes=range(3)).fit(X[1:], y[1:])
