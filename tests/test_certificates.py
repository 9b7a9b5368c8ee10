"""No certificate may ever be broken: every change of tiny training sets, and the worst changes of larger ones."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.base import clone

import certificates as attack
from certificates import NEW, Tiny, clusters, quiet_fit, worst
from poisonfrogs.certified import CertifiedClassifier, NeighbourVotes, PartitionVotes, RadiusVotes, StableHead
from poisonfrogs.certified.partitions import _elected

pytestmark = pytest.mark.usefixtures("one_thread")


def radius_votes(rng, classes=None):
    return RadiusVotes(threshold=float(rng.choice([-0.5, 0.0, 0.4, 0.8, 0.99])), classes=classes)


def neighbour_votes(rng, classes=None):
    return NeighbourVotes(k=int(rng.choice([1, 2, 3, 4, 5, 8, 20])), classes=classes)


def partition_votes(rng, classes=None):
    return PartitionVotes(
        n_partitions=int(rng.integers(1, 10)), alpha=float(rng.choice([0.01, 0.1, 3.0])), classes=classes
    )


def run_off_votes(rng, classes=None):
    return partition_votes(rng, classes).set_params(run_off=True)


def stable_head(rng, classes=None):
    """With few examples, only a large alpha certifies anything."""
    return StableHead(alpha=float(rng.choice([0.5, 2.0, 8.0, 50.0])), classes=classes)


families = pytest.mark.parametrize(
    "family", [radius_votes, neighbour_votes, partition_votes, run_off_votes, stable_head]
)


def unchanged(
    model: CertifiedClassifier, train: Tiny, row: np.ndarray, contents: np.ndarray, labels, count: int
) -> int:
    """Refit after every change of `count` operations; how many there were."""
    predicted = quiet_fit(model, train.X, train.y).predict(row[None])[0]
    tried = 0
    for X, y in attack.changes(train, contents, labels, count):
        tried += 1
        assert quiet_fit(model, X, y).predict(row[None])[0] == predicted, (model, train, row, X, y)
    return tried


@pytest.mark.parametrize("given", [False, True], ids=["any label", "classes given"])
@families
def test_every_change_of_a_tiny_set_within_the_radius(family, given):
    rng = np.random.default_rng(7)
    budget = (
        {1: 500, 2: 200, 3: 100} if given else {1: 800, 2: 300, 3: 200}
    )  # refits for each number of operations, whole sets of changes at a time
    tried = Counter()
    for _ in range(250):
        train = attack.tiny(rng, 14 if family is stable_head else 9)  # a head needs more examples to certify anything
        present = sorted(set(train.y.tolist()))
        model = family(rng, classes=[*present, 40] if given else None)
        radii = quiet_fit(model, train.X, train.y).certified_radius(train.rows)
        labels = present if family is stable_head and not given else [*present, *NEW]
        for row, radius in zip(train.rows, radii.tolist(), strict=True):
            assert radius < len(train.X)
            near = row + 0.05 * rng.normal(size=row.shape)
            contents = np.stack([row, near, -row, train.pool[1], np.full(row.shape, np.nan)])
            for count in [count for count in budget if count <= radius and tried[count] < budget[count]]:
                few = contents if count == 1 else contents[: 4 - count]
                tried[count] += unchanged(model, train, row, few, labels, count)
    assert tried[1] >= 300
    assert tried[2] >= 100 or family is stable_head


def test_the_radius_of_neighbours_is_exact():
    """Against every subset of the examples and every number of insertions; never below the plain form. Ties against us."""
    rng = np.random.default_rng(3)
    radii = Counter()
    for _ in range(150):
        train = attack.tiny(rng, most=7)
        model = neighbour_votes(rng).fit(train.X, train.y)
        codes, found, _ = model.answers(train.rows)
        for row, own, radius in zip(train.rows, model.classes_[codes].tolist(), found.tolist(), strict=True):
            order = attack.nearest(train, row.tolist())
            assert radius == max(attack.fewest_operations(order, model.k, own) - 1, 0)
            gap = min(attack.lead_of_nearest(order, model.k, own, rival) for rival in {*attack.LABELS, *NEW} - {own})
            assert radius >= -(-gap // 2) - 1
            radii[radius] += 1
    assert len(radii) >= 5


def test_the_radius_of_more_neighbours_is_exact():
    """Whole tie groups before, at and after the k-th and the 2k-th place; our examples are taken away nearest first."""
    rng = np.random.default_rng(9)
    radii = Counter()
    for _ in range(250):
        n, k, classes = int(rng.integers(1, 60)), int(rng.integers(1, 31)), int(rng.integers(1, 4))
        pool = np.stack([np.cos(angle := rng.integers(1, 9, 12) / 9), np.sin(angle)], axis=1)
        X, y = pool[rng.integers(12, size=n)], rng.choice(attack.LABELS[:classes], n, p=rng.dirichlet(np.ones(classes)))
        rows = pool[:3]
        model = NeighbourVotes(k).fit(X, y)
        codes, found, _ = model.answers(rows)
        for row, own, radius in zip(rows, model.classes_[codes].tolist(), found.tolist(), strict=True):
            order = attack.nearest(Tiny(X, y, rows, pool), row.tolist())
            assert own == min(
                votes := Counter(label for _, label in order[:k]), key=lambda label: (-votes[label], label)
            )
            assert radius == max(attack.fewest_of_many(order, k, own) - 1, 0)
            radii[radius] += 1
    assert len(radii) >= 15


def test_one_insertion_more_than_the_radius_ties_or_wins_the_radius_votes():
    rng = np.random.default_rng(4)
    for _ in range(300):
        train = attack.tiny(rng)
        model = radius_votes(rng).fit(train.X, train.y)
        for row, own, radius in zip(
            train.rows, model.predict(train.rows).tolist(), model.certified_radius(train.rows).tolist(), strict=True
        ):
            votes = attack.votes_within(train, row.tolist(), model.threshold)
            lead = votes.pop(own, 0) - max(votes.values(), default=0)
            assert radius == max(lead - 1, 0)
            if not attack.votes_within(Tiny(row[None], np.array([own]), row, row), row.tolist(), model.threshold):
                continue  # rounding takes a row's cosine with itself below .99
            rival = max(votes, key=votes.get, default=NEW[1])
            X = np.vstack([train.X, np.repeat(row[None], radius + 1, axis=0)])
            after = type(model)(model.threshold).fit(X, np.append(train.y, [rival] * (radius + 1)))
            shares = dict(zip(after.classes_.tolist(), after.predict_proba(row[None])[0], strict=True))
            assert shares[rival] >= shares[own]


@pytest.mark.parametrize("new", [0, 1, 2])
def test_every_change_of_a_run_off_within_the_radius(new):
    """Any heads exchanged for any others: every order of the labels, and an empty partition."""
    rng = np.random.default_rng(new)
    tried = Counter()
    labels = 3 if new < 2 else 2
    prefer = np.array([*itertools.permutations(np.arange(labels) * 1.0), [-np.inf] * labels])
    orders = np.array([*itertools.permutations(range(labels + new)), [-np.inf] * (labels + new)])
    # two rivals overtake together, three votes an operation; a rival has to overtake a third class first
    narrow = [[0, 1, 2]] * 5 + [[1, 0, 2]] * 2 + [[2, 0, 1]] * 2, [[0, 1, 2]] * 8 + [[2, 1, 0]] * 5 + [[1, 0, 2]] * 2
    tables = [-np.argsort(np.array(ballots), axis=1).astype(float) for ballots in narrow] if labels == 3 else []
    for _ in range(400 if not new else 100):
        heads = int(rng.integers(5, 9 if new else 19))
        table = prefer[
            rng.choice(len(prefer), heads, p=rng.dirichlet(np.full(len(prefer), 0.5)))
        ]  # a few orders are common
        table[rng.random(table.shape) < rng.choice([0.0, 0.1])] = -np.inf
        tables.append(table)
    for table in tables:
        heads = len(table)
        votes = np.bincount(table.argmax(1)[np.isfinite(table).any(1)], minlength=labels)
        codes, radius, _ = _elected(torch.from_numpy(table[None]), torch.from_numpy(votes[None]))
        places = np.sort(rng.choice(labels + new, labels, replace=False))  # a new label sorts anywhere
        wide = np.full((heads, labels + new), -np.inf)
        wide[:, places] = table
        assert attack.election(table[None])[0] == codes[0]
        count = min(int(radius[0]), 2)
        for chosen in itertools.combinations(range(heads), count) if count > 0 else []:
            exchanged = np.repeat(wide[None], len(orders) ** count, axis=0)
            exchanged[:, chosen] = np.array(list(itertools.product(orders, repeat=count)))
            assert (attack.election(exchanged) == places[codes[0]]).all(), (table, radius)
            tried[int(radius[0]), count] += len(exchanged)
    assert min(tried[1, 1], tried[2, 2]) > 1000


def splits(count: int) -> list[int]:
    """How many of the operations are removals."""
    return sorted({round(count * share) for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)})


larger = pytest.mark.parametrize(("n", "d", "classes"), [(200, 16, 2), (400, 64, 3), (1200, 32, 5)], ids=str)


@larger
@pytest.mark.parametrize(
    "model",
    [RadiusVotes(0.2), RadiusVotes(0.5), NeighbourVotes(11), NeighbourVotes(201)],
    ids=["wide", "narrow", "11 neighbours", "201 neighbours"],
)
def test_votes_stand_the_worst_attack_and_no_operation_more(model, n, d, classes):
    """Copies of the row under another label, and its nearest own examples gone; one operation more ties or wins."""
    train = clusters(np.random.default_rng(n), n, d, classes)
    model = clone(model)
    codes, radii, _ = model.fit(train.X, train.y).answers(train.rows)
    for row, own, radius in zip(train.rows[:3], codes[:3].tolist(), radii[:3].tolist(), strict=True):
        rivals = [label for label in (*range(classes), -1) if label != own]
        for rival, removed in itertools.product(rivals, splits(radius)):
            X, y = worst(train, row, own, rival, removed, np.tile(row, (radius - removed, 1)))
            assert clone(model).fit(X, y).predict(row[None])[0] == own
        ways = range(radius + 2) if isinstance(model, NeighbourVotes) else [0]
        felled = (
            ties_or_wins(
                model, *worst(train, row, own, rival, removed, np.tile(row, (radius + 1 - removed, 1))), row, own
            )
            for removed, rival in itertools.product(ways, rivals)
        )
        assert any(felled)


def ties_or_wins(model, X, y, row, own) -> bool:
    after = clone(model).fit(X, y)
    shares = after.predict_proba(row[None])[0]
    return shares[after.classes_ != own].max() >= shares[after.classes_ == own].max(initial=0.0)


@larger
@pytest.mark.parametrize("run_off", [False, True], ids=["votes", "run-off"])
def test_partitions_stand_insertions_steered_into_them(run_off, n, d, classes):
    """The attacker takes the heads that vote for the row's class, the least sure first, an operation each; then removals."""
    rng = np.random.default_rng(n + 1)
    train = clusters(rng, n, d, classes)
    parts, alpha = n // 20 | 1, 0.01
    model = PartitionVotes(parts, alpha, run_off).fit(train.X, train.y)
    codes, radii, _ = model.answers(train.rows)
    moved = 0
    for row, own, radius in zip(train.rows[:4], codes[:4].tolist(), radii[:4].tolist(), strict=True):
        scores = (
            row / np.linalg.norm(row) * 2048 @ np.moveaxis(model.head_.weight.numpy(), 0, 1) + model.head_.bias.numpy()
        )
        rival = int(np.bincount(np.delete(scores, own, 1).argmax(1), minlength=classes - 1).argmax())
        rival += rival >= own
        sure = np.where(scores.argmax(1) == own, scores[:, own] - scores[:, rival], np.inf)
        for label, target in itertools.product([rival, -1, classes], [sure.argsort(), rng.permutation(parts)]):
            inserted = np.stack(
                [attack.steered(row, int(part), parts, rng) for part in target[:radius]] or [row][:radius]
            )
            for removed in {0, radius // 2}:
                X, y = worst(train, row, own, label, removed, inserted[: radius - removed].reshape(-1, d))
                after = clone(model).fit(X, y)
                assert after.predict(row[None])[0] == own
                moved += int(after.predict_proba(row[None]).max() != model.predict_proba(row[None]).max())
    assert moved > 10


@pytest.mark.parametrize(
    "model",
    [RadiusVotes(0.3), NeighbourVotes(31), PartitionVotes(31), PartitionVotes(31, 1.0, True)],
    ids=["radius", "neighbours", "partitions", "run-off"],
)
def test_random_changes_of_a_larger_set(model):
    """Anything at all, as many operations as the radius: rows of every kind, labels old and new."""
    rng = np.random.default_rng(5)
    train = clusters(rng, 300, 16, 4)
    codes, radii, _ = clone(model).fit(train.X, train.y).answers(train.rows)
    for _ in range(20):
        for count in sorted(set(radii[radii > 0].tolist()))[:6]:
            removed = int(rng.integers(0, count + 1))
            kept = rng.permutation(len(train.X))[removed:]
            inserted = train.rows[rng.integers(12, size=count - removed)] + rng.choice([0, 0.5, 9]) * rng.normal(
                size=(count - removed, 16)
            )
            X, y = np.vstack([train.X[kept], inserted]), np.append(train.y[kept], rng.integers(-1, 6, count - removed))
            after = clone(model).fit(X, y).predict(train.rows)
            assert (after == codes)[radii >= count].all()


@pytest.mark.parametrize("given", [False, True], ids=["any label", "classes given"])
@pytest.mark.parametrize("change", ["1 in", "5 in", "50 in", "new label", "removed", "emptied"])
def test_a_changed_partition_leaves_the_other_heads_bits(change, given):
    rng = np.random.default_rng(6)
    train = clusters(rng, 600, 24, 4)
    parts = 12
    model = PartitionVotes(parts, classes=range(-1, 4) if given else None)
    before = clone(model).fit(train.X, train.y)
    where = np.array([attack.partition(x, parts) for x in train.X.tolist()])
    X, y = train.X, train.y
    if change in ("removed", "emptied"):
        kept = (
            np.flatnonzero(where != 3)
            if change == "emptied"
            else np.delete(np.arange(600), np.flatnonzero(where == 3)[::3])
        )
        X, y = X[kept], y[kept]
    else:
        count = 5 if change == "new label" else int(change.split()[0])
        X = np.vstack([X, [attack.steered(train.rows[i % 12], 3, parts, rng) for i in range(count)]])
        y = np.append(y, [-1 if change == "new label" else 2] * count)
    after = clone(model).fit(X, y)
    others = np.arange(parts) != 3
    for label in range(4):
        (one, bias), (two, other) = of_label(before, label), of_label(after, label)
        assert np.array_equal(one[:, others], two[:, others])
        assert np.array_equal(bias[others], other[others])
        assert not np.array_equal(one[:, 3], two[:, 3])
    if -1 in after.classes_:
        assert np.isneginf(of_label(after, -1)[1][others]).all()


def of_label(model: PartitionVotes, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, partitions) and biases (partitions,) of one label."""
    code = model.classes_.tolist().index(label)
    return model.head_.weight[:, :, code].numpy(), model.head_.bias[:, code].numpy()
