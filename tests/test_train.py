"""Heads by the paper's recipe and the attacker's surrogate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from poisonfrogs import train
from poisonfrogs.logistic import Heads, Rows, solve
from poisonfrogs.train import LogisticHead, PaperHead, Surrogate, recipe
from poisonfrogs.types import InputError
from test_logistic import problem, set_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = PaperHead(epochs=6, batch_size=16)
KINDS = [(2, 1, 0), (2, 2, 2), (4, 1, 1), (4, 3, 0)]
kinds = pytest.mark.parametrize(("classes", "own", "removed"), KINDS, ids=str)


# --- the paper's recipe


def plain_loop(rows: Rows, head: int, classes: int, *, epochs: int, batch_size: int, rate: float, seed: int):
    """torch.nn.Linear, torch.optim.Adam and cross_entropy, for one head; the draws in the recipe's order."""
    count, dim = rows.features.shape
    own = rows.own.shape[1]
    x = torch.cat([rows.features, rows.own[head]])
    y = torch.cat([rows.labels, rows.own_labels[head]])
    gone = set(rows.removed[head].tolist())
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(dim + 1, classes, generator=generator).double() * 2 - 1) / dim**0.5
    linear = torch.nn.Linear(dim, classes, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(drawn[:dim].T)
        linear.bias.copy_(drawn[dim])
    adam = torch.optim.Adam(linear.parameters(), lr=rate)
    for _ in range(epochs):
        order = torch.randperm(count + own, generator=generator)
        for start in range(0, count + own, batch_size):
            batch = [i for i in order[start : start + batch_size].tolist() if i not in gone]
            adam.zero_grad()
            torch.nn.functional.cross_entropy(linear(x[batch]), y[batch]).backward()
            adam.step()
    return linear.weight.detach().T, linear.bias.detach()


@kinds
def test_a_head_is_what_a_plain_loop_trains(classes, own, removed):
    rows = problem(classes, own=own, removed=removed)
    heads = PaperHead(epochs=6, batch_size=16, learning_rate=0.02)(rows, classes, seed=11)
    for head in range(5):
        weight, bias = plain_loop(rows, head, classes, epochs=6, batch_size=16, rate=0.02, seed=11)
        assert (heads.weight[head] - weight).abs().max() < 1e-7  # the initial values are drawn in float32
        assert (heads.bias[head] - bias).abs().max() < 1e-7


@kinds
def test_a_head_in_the_batch_is_the_head_trained_alone(classes, own, removed):
    rows = problem(classes, own=own, removed=removed)
    together = SHORT(rows, classes, seed=4)
    for head in range(5):
        alone = SHORT(rows.part(torch.tensor([head])), classes, seed=4)
        assert (alone.weight[0] - together.weight[head]).abs().max() < 1e-11
        assert (alone.bias[0] - together.bias[head]).abs().max() < 1e-11


@pytest.mark.parametrize(("margin", "left"), [(80.0, 1.8e-35), (95.0, 0.0)])
def test_subnormal_residuals_are_dropped(margin, left):
    """They slow the product with the features three times, and e⁻⁹⁵ is one: what is left is exactly 0."""
    none = torch.empty(1, 0, dtype=torch.int64)
    rows = Rows(torch.ones(1, 1), torch.tensor([0]), torch.empty(1, 0, 1), none, none)
    theta = torch.tensor([[[margin], [0.0]], [[0.0], [0.0]]])  # (d + 1, K, H): logits margin and 0
    gradient = train._Examples.of(rows, 2).mean_gradient(theta, torch.tensor([0]))
    assert gradient[:, 0, 0].tolist() == [0.0, 0.0]
    assert gradient[:, 1, 0].tolist() == pytest.approx([left, left], rel=0.02, abs=0.0)


def test_the_recipe_is_the_papers():
    assert (PaperHead().epochs, PaperHead().learning_rate) == (100, 0.01)
    assert recipe("paper") == PaperHead()


def test_the_seed_decides_and_nothing_else():
    rows = problem(3)
    torch.manual_seed(0)
    first = SHORT(rows, 3, seed=1)
    torch.manual_seed(1)
    assert torch.equal(SHORT(rows, 3, seed=1).weight, first.weight)
    assert not torch.equal(SHORT(rows, 3, seed=2).weight, first.weight)


def test_equal_rows_give_equal_heads():
    """A poison that is its base is the control: the same numbers to the last bit, in one batch."""
    rows = problem(3, heads=2)
    twice = Rows(
        rows.features, rows.labels, rows.own.repeat(2, 1, 1), rows.own_labels.repeat(2, 1), rows.removed.repeat(2, 1)
    )
    heads = SHORT(twice, 3, seed=1)
    assert torch.equal(heads.weight[:2], heads.weight[2:])
    assert not torch.equal(heads.weight[0], heads.weight[1])


def test_the_callers_rows_are_left_as_they_were():
    rows = problem(3, removed=2)
    copies = [t.clone() for t in (rows.features, rows.labels, rows.own, rows.own_labels, rows.removed)]
    SHORT(rows, 3, seed=1)
    LogisticHead(c=1.0)(rows, 3, seed=1)
    for before, now in zip(copies, (rows.features, rows.labels, rows.own, rows.own_labels, rows.removed), strict=True):
        assert torch.equal(before, now)


# --- logistic heads and names


@kinds
def test_the_logistic_head_is_scikit_learns(classes, own, removed):
    rows = problem(classes, own=own, removed=removed)
    heads = LogisticHead(c=3.0)(rows, classes, seed=0)
    probe = torch.randn(20, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for head in range(5):
        x, y = set_of(rows, head)
        c = 6.0 if classes == 2 else 3.0  # see test_logistic
        reference = LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(x.numpy(), y.numpy())
        assert np.abs(heads.predict(probe)[head].numpy() - reference.predict_proba(probe.numpy())).max() < 1e-5


@pytest.mark.parametrize("at_once", [1, 2])
def test_heads_that_do_not_fit_at_once_are_solved_in_portions(at_once, monkeypatch):
    rows = problem(3, removed=2)
    whole = LogisticHead(c=3.0)(rows, 3, seed=0)
    monkeypatch.setattr("poisonfrogs.train.AT_ONCE", at_once * len(rows.features) * 3)
    sizes = []
    monkeypatch.setattr(
        "poisonfrogs.train.solve", lambda some, *more, **given: sizes.append(some.heads) or solve(some, *more, **given)
    )
    heads = LogisticHead(c=3.0)(rows, 3, seed=0)
    assert sizes == [1, *[at_once] * (5 // at_once), *[1] * (5 % at_once)]  # the clean head first
    assert torch.allclose(heads.weight, whole.weight, atol=1e-6)
    assert torch.allclose(heads.bias, whole.bias, atol=1e-6)


@pytest.mark.parametrize(("text", "c"), [("logistic:100", 100.0), ("logistic:1e-3", 0.001), ("logistic:.5", 0.5)])
def test_names_of_logistic_heads(text, c):
    assert recipe(text) == LogisticHead(c=c)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paper",
        "paper:3",
        "logistic",
        "logistic:",
        "logistic:0",
        "logistic:-1",
        "logistic:inf",
        "logistic:nan",
        "logistic:x",
        "svm:1",
    ],
)
def test_unknown_heads_are_refused_with_what_was_expected(text):
    with pytest.raises(InputError, match=r"--head .* expected paper, logistic:C") as refused:
        recipe(text)
    assert repr(text) in str(refused.value)
    assert "\n" not in str(refused.value)


# --- the surrogate

CLASSES, DIM = 2, 200


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes apart on the first axis, as many features as pictures: the paper's reason for its success."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, DIM, generator=g)
    features[:, 0] += 2.0 * (labels * 2 - 1)
    return features, labels


def surrogate(seed: int = 5) -> Surrogate:
    return Surrogate.fit(*blobs(), CLASSES, seed=seed)


def targets(count: int) -> torch.Tensor:
    """Of class 1."""
    features = torch.randn(count, DIM, generator=torch.Generator().manual_seed(77))
    features[:, 0] += 2.0
    return features


def beyond(target: torch.Tensor) -> torch.Tensor:
    """Poisons that suffice: on the target, and deeper in its class."""
    return target + 6.0 * torch.eye(DIM)[0]


def watch(found: Surrogate, aimed: torch.Tensor, poisons: int = 1):
    return found.watch(targets=aimed, labels=torch.zeros(len(aimed), dtype=torch.int64), poisons=poisons).sure


def test_the_clean_head_is_converged():
    found = surrogate()
    x, y = blobs()
    reference = LogisticRegression(C=200.0, tol=1e-10, max_iter=20000).fit(x.numpy(), y.numpy())
    mine = found.clean.predict(x)[0, :, 1].numpy()
    assert np.abs(mine - reference.predict_proba(x.numpy())[:, 1]).max() < 0.02


def test_a_large_set_is_sampled():
    x, y = blobs()
    found = Surrogate.fit(x, y, CLASSES, seed=1, sample=16)
    assert found.features.shape == (16, DIM)
    assert all((x == row).all(1).any() for row in found.features)
    assert len(found.labels) == 16


@pytest.mark.parametrize("rare", [1, 3])
def test_a_sample_has_a_row_of_every_class_and_is_else_what_it_was(rare):
    x, _ = blobs()
    labels, added = torch.zeros(len(x), dtype=torch.int64), 0
    labels[:rare], labels[rare : rare + 90] = 2, 1
    for seed in range(20):
        plain = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:16]
        found = Surrogate.fit(x, labels, 3, seed=seed, sample=16)
        expected = x[plain]
        if not (labels[plain] == 2).any():
            added += 1
            assert found.labels[-1] == 2  # in the place of the last
            expected = torch.cat([expected[:-1], found.features[-1:]])
        assert torch.equal(found.features, expected)
        assert found.labels.unique().tolist() == [0, 1, 2]
    assert added > 0


def test_poisons_at_their_bases_do_not_stop():
    aimed = targets(4)
    x, y = blobs()
    assert not watch(surrogate(), aimed)(x[y == 0][:4], [0, 1, 2, 3]).any()


def test_poisons_that_suffice_stop_each_for_itself():
    aimed = targets(4)
    features = beyond(aimed)
    features[2] = blobs()[0][0]
    assert watch(surrogate(), aimed)(features, [0, 1, 2, 3]).tolist() == [True, True, False, True]
    # asked about some of them only, under their own numbers
    assert watch(surrogate(), aimed)(features[[1, 2]], [1, 2]).tolist() == [True, False]
    assert watch(surrogate(), aimed)(beyond(aimed)[[3]], [3]).tolist() == [True]


def test_both_heads_have_to_fall(monkeypatch):
    """The converged logistic head first, enough for `likely`; then the paper's recipe on those that it gave away."""
    aimed, asked = targets(3), []
    sure = Heads(torch.zeros(1, DIM, 2), torch.tensor([[9.0, -9.0]]))
    unsure = Heads(torch.zeros(1, DIM, 2), torch.tensor([[-9.0, 9.0]]))

    def among(heads: list[Heads]) -> Heads:
        return Heads(torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads]))

    class Recipe:
        def __init__(self, **options):
            pass

        def __call__(self, rows, classes, *, seed):
            asked.append(rows.heads)
            return among([sure, unsure][: rows.heads])

    found = surrogate()
    monkeypatch.setattr(train, "PaperHead", Recipe)
    monkeypatch.setattr(train, "solve", lambda rows, *args, **options: (among([sure, unsure, sure]), None))
    labels = torch.zeros(3, dtype=torch.int64)
    assert found.watch(targets=aimed, labels=labels, poisons=1).likely(aimed, [0, 1, 2]).tolist() == [True, False, True]
    assert asked == []
    assert watch(found, aimed)(aimed, [0, 1, 2]).tolist() == [True, False, False]
    assert asked == [2]  # the second target was not asked about
    monkeypatch.setattr(train, "solve", lambda rows, *args, **options: (among([unsure] * 3), None))
    assert watch(found, aimed)(aimed, [0, 1, 2]).tolist() == [False] * 3
    assert asked == [2]


def test_the_confidence_asked_for_is_that_of_the_base_class():
    aimed = targets(2)
    features = beyond(aimed)
    stop = watch(replace(surrogate(), confidence=1.0), aimed)
    assert not stop(features, [0, 1]).any()  # nothing is above 1


def test_the_surrogate_has_a_seed_of_its_own(monkeypatch):
    """What it trains follows from its own seed alone."""
    seeds = []

    class Spy(PaperHead):
        def __call__(self, rows, classes, *, seed):
            seeds.append((seed, self.epochs))
            return super().__call__(rows, classes, seed=seed)

    monkeypatch.setattr(train, "PaperHead", Spy)
    aimed = targets(2)
    stop = watch(surrogate(seed=123), aimed)
    stop(beyond(aimed), [0, 1])
    stop(beyond(aimed), [0, 1])
    assert seeds == [(123, 20)] * 2


def test_each_targets_head_starts_from_its_own_last_one(monkeypatch):
    starts, ends = [], []

    def spy(rows, classes, *, start, **options):
        heads, converged = solve(rows, classes, start=start, **options)
        starts.append(start)
        ends.append(heads)
        return heads, converged

    found, aimed = surrogate(), targets(3)
    monkeypatch.setattr(train, "solve", spy)
    stop = watch(found, aimed)
    stop(beyond(aimed), [0, 1, 2])
    stop(beyond(aimed)[[2]], [2])
    stop(beyond(aimed)[[0, 2]], [0, 2])
    assert torch.equal(starts[0].weight, found.clean.weight.expand(3, -1, -1))
    assert torch.equal(starts[1].weight, ends[0].weight[[2]])
    assert torch.equal(starts[2].weight, torch.stack([ends[0].weight[0], ends[1].weight[0]]))
    assert torch.equal(starts[2].bias, torch.stack([ends[0].bias[0], ends[1].bias[0]]))
    watch(found, aimed)(beyond(aimed), [0, 1, 2])  # another group of targets
    assert torch.equal(starts[3].weight, starts[0].weight)


@pytest.mark.parametrize(("count", "inside"), [(1, 1), (32, 1), (33, 2)])
def test_few_heads_are_solved_by_one_thread(monkeypatch, count, inside):
    seen = []

    def spy(rows, classes, **options):
        seen.append(torch.get_num_threads())
        return solve(rows, classes, **options)

    found, aimed = surrogate(), targets(count)
    monkeypatch.setattr(train, "solve", spy)
    torch.set_num_threads(2)  # the fixture sets it back
    for _ in range(2):
        watch(found, aimed)(beyond(aimed), list(range(count)))
    assert seen == [inside] * 2
    assert torch.get_num_threads() == 2


def test_an_answer_does_not_hang_on_what_was_asked_before():
    """Convex: from the head that a worse or a better poison left, the same solution is found."""
    aimed = targets(3)
    good, bad = beyond(aimed), blobs()[0][blobs()[1] == 0][:3]
    stop = watch(surrogate(), aimed)
    for features, fall in [(bad, False), (good, True), (bad, False), (good, True)]:
        assert stop(features, [0, 1, 2]).tolist() == [fall] * 3


def test_the_poisons_of_a_target_stop_together():
    aimed = targets(3)
    features = beyond(aimed).repeat_interleave(2, 0)
    features[2:4] = blobs()[0][:1]  # the second target's
    stop = watch(surrogate(), aimed, poisons=2)
    assert stop(features, list(range(6))).tolist() == [True, True, False, False, True, True]
    assert stop(features[[0, 1, 4, 5]], [0, 1, 4, 5]).tolist() == [True] * 4
    # one good poison and one useless
    features[5] = blobs()[0][0]
    assert stop(features[4:], [4, 5]).tolist() in ([True] * 2, [False] * 2)


def test_a_target_that_lost_a_poison_is_not_judged():
    """Its other poisons go on to the last pass; those of whole targets stop as ever."""
    aimed = targets(3)
    features = beyond(aimed).repeat_interleave(2, 0)
    stop = watch(surrogate(), aimed, poisons=2)
    assert stop(features[[0, 1, 2, 4, 5]], [0, 1, 2, 4, 5]).tolist() == [True, True, False, True, True]


def test_no_whole_target_left_is_no_error():
    aimed = targets(2)
    features = beyond(aimed).repeat_interleave(2, 0)
    stop = watch(surrogate(), aimed, poisons=2)
    assert stop(features[[0, 3]], [0, 3]).tolist() == [False, False]


def test_more_than_two_classes():
    rows = problem(4, heads=1, n=160, d=160)
    found = Surrogate.fit(rows.features.float(), rows.labels, 4, seed=0)
    target = (
        rows.features[rows.labels == 2].mean(0, keepdim=True)
        + torch.randn(1, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ).float()
    for base in (0, 1, 3):
        axis = rows.features[rows.labels == 2].mean(0) - rows.features[rows.labels == base].mean(0)
        stop = found.watch(targets=target, labels=torch.tensor([base]), poisons=1).sure
        assert stop(target + 0.5 * axis.float(), [0]).tolist() == [True]
        assert stop(rows.features[rows.labels == base][:1].float(), [0]).tolist() == [False]


def test_the_stop_is_confirmed_by_independent_heads():
    """What stops falls for scikit-learn's logistic regression and for a full training by the recipe, too."""
    aimed = targets(4)
    features = beyond(aimed)
    assert watch(surrogate(), aimed)(features, [0, 1, 2, 3]).all()
    x, y = blobs()
    for target, poison in zip(aimed, features, strict=True):
        rows = np.vstack([x.numpy(), poison.numpy()]), np.append(y.numpy(), 0)
        assert LogisticRegression(C=200.0, max_iter=5000).fit(*rows).predict(target[None].numpy()) == [0]
    rows = Rows(x, y, features[:, None], torch.zeros(4, 1, dtype=torch.int64), torch.empty(4, 0, dtype=torch.int64))
    assert (PaperHead()(rows, 2, seed=99).predict(aimed[:, None])[:, 0].argmax(-1) == 0).all()


def test_solving_for_the_surrogate_leaves_its_start_alone():
    found = surrogate()
    before = found.clean.weight.clone()
    aimed = targets(2)
    watch(found, aimed)(beyond(aimed), [0, 1])
    assert torch.equal(found.clean.weight, before)
    again, _ = solve(
        Rows(
            *blobs(), blobs()[0][None, :0], torch.empty(1, 0, dtype=torch.int64), torch.empty(1, 0, dtype=torch.int64)
        ),
        2,
        c=100.0,
        tolerance=1e-4,
    )
    assert torch.equal(again.weight, before)
