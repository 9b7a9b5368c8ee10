"""The attack against closed forms and identities: linear extractors in float64, no network."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import Tensor

from poisonfrogs.attacks.collision import Ball, Collision, Pull
from poisonfrogs.descent import Backtracking, SignedMomentum, descend
from poisonfrogs.types import Goal, Stop

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 6


class Linear:
    """f(x) = A x, another A for each size of picture; every picture by itself, so that no row knows of others."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def matrix(self, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(math.prod(shape))
        return torch.randn(DIM, math.prod(shape), generator=generator, dtype=torch.float64)

    def __call__(self, pictures: list[Tensor]) -> Tensor:
        self.calls.append(len(pictures))
        return torch.stack([self.matrix(tuple(x.shape)) @ x.flatten() for x in pictures])


def picture(seed: int, shape: tuple[int, int, int] = (3, 4, 5), low: int = 0, high: int = 255) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.uint8)


def goal_of(net: Linear, seed: int, axis: int = 0) -> Goal:
    """A target's feature, and a unit vector for an axis."""
    feature = net([picture(seed).double() / 255])[0]
    return Goal(feature=feature, axis=torch.eye(DIM, dtype=torch.float64)[axis])


def never(features: Tensor, indices: list[int]) -> Tensor:
    return torch.zeros(len(indices), dtype=torch.bool)


def collide(attack: Collision, bases: list[Tensor], goals: list[Goal], *, net=None, stop=never, check=None):
    net = net or Linear()
    stop = stop if isinstance(stop, Stop) else Stop(likely=stop, sure=stop)
    return attack(net, bases, goals, stop=stop, checks=[check or Linear()])


def lone_descent(net, base: Tensor, aim: Tensor, budget, rule, passes: int) -> Tensor:
    """`descend` on a single picture; the picture before it is rounded."""
    pictures, spent, failures = descend(
        net,
        [base],
        objective=lambda features, active: (features - aim).square().sum(1),
        budget=lambda values: budget,
        rule=rule,
        passes=passes,
        finished=lambda pictures, features, active: [False] * len(active),
        every=10,
    )
    assert spent == [passes]
    assert failures == [None]
    return pictures[0]


def published_minimiser(a: np.ndarray, b: np.ndarray, t: np.ndarray, beta: float) -> np.ndarray:
    """argmin ‖Ax − t‖² + (β/2)‖x − b‖², from its normal equations."""
    return np.linalg.solve(2 * a.T @ a + beta * np.eye(len(b)), 2 * a.T @ t + beta * b)


# --- closed forms


@pytest.mark.parametrize("beta", [0.5, 3.0, 40.0])
def test_the_beta_form_reaches_its_exact_minimiser(beta):
    net, base = Linear(), picture(1, low=100, high=150).double() / 255
    a = net.matrix((3, 4, 5)).numpy()
    b = base.flatten().numpy()
    t = a @ b + np.linspace(-0.5, 0.5, DIM)  # near enough for an optimum inside [0, 1]
    x = published_minimiser(a, b, t, beta)
    assert x.min() > 0
    assert x.max() < 1
    found = lone_descent(net, base, torch.from_numpy(t), Pull(beta), Backtracking(step=0.02), 1500)
    assert np.abs(found.flatten().numpy() - x).max() < 1e-6
    # and it is where the iteration goes as it is published, with a fixed λ
    published, rate = b.copy(), 0.4 / np.linalg.norm(a, 2) ** 2
    for _ in range(4000):
        forward = published - rate * 2 * a.T @ (a @ published - t)
        published = (forward + rate * beta * b) / (1 + beta * rate)
    assert np.abs(published - x).max() < 1e-6


def test_the_beta_form_with_clipping_reaches_the_constrained_minimiser():
    """Where [0, 1] binds: an independent solver for bounded least squares, the penalty as more rows."""
    net, base, beta = Linear(), picture(2).double() / 255, 0.7
    a, b = net.matrix((3, 4, 5)).numpy(), base.flatten().numpy()
    t = a @ b + np.linspace(-8, 8, DIM)
    stacked = np.vstack([a, np.sqrt(beta / 2) * np.eye(len(b))])
    reference = lsq_linear(stacked, np.concatenate([t, np.sqrt(beta / 2) * b]), bounds=(0, 1), tol=1e-14)
    assert (reference.active_mask != 0).sum() > 5  # the bounds do bind
    found = lone_descent(net, base, torch.from_numpy(t), Pull(beta), Backtracking(step=0.02), 1500)
    assert np.abs(found.flatten().numpy() - reference.x).max() < 1e-4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bounded_form_reaches_the_box_constrained_optimum(seed):
    """Within 0.1 % of what lies between the base's objective and the optimum."""
    net, base, eps = Linear(), picture(seed).double() / 255, 16 / 255
    a, b = net.matrix((3, 4, 5)).numpy(), base.flatten().numpy()
    t = a @ picture(seed + 50).double().div(255).flatten().numpy()
    low, high = np.maximum(b - eps, 0), np.minimum(b + eps, 1)
    reference = lsq_linear(a, t, bounds=(low - 1e-12, high + 1e-12), tol=1e-14)
    assert (reference.active_mask != 0).sum() > 5
    rule = SignedMomentum(step=0.02, momentum=0.75, cycle=10, restart=1.0)
    found = lone_descent(net, base, torch.from_numpy(t), Ball(eps), rule, 1000).flatten().numpy()
    assert (found >= low - 1e-12).all()
    assert (found <= high + 1e-12).all()
    at_base = np.square(a @ b - t).sum()
    gap = np.square(a @ found - t).sum() - 2 * reference.cost
    assert -1e-9 <= gap <= 1e-3 * (at_base - 2 * reference.cost)


def test_the_step_falls_to_nothing_and_starts_again_at_a_part_of_the_first():
    rule, x, state = SignedMomentum(step=0.5, momentum=0.0, cycle=3, restart=0.25), torch.zeros(1, 3, 1, 1), None
    moved = []
    for number in range(9):
        after, state = rule(state, x, torch.zeros(1), torch.ones_like(x), number, lambda x, step: x)
        moved.append(float((x - after)[0, 0, 0, 0]))
        x = after
    first, other = [0.5, 0.375, 0.125], [0.125, 0.09375, 0.03125]  # (1 + cos(0, 60, 120 degrees)) / 2 is 1, 3/4, 1/4
    assert moved == pytest.approx(first + other + other, abs=1e-6)


@pytest.mark.parametrize("overshoot", [0.0, 2.0])
def test_the_aim_is_the_target_moved_along_the_axis(overshoot):
    """Rounded pictures of the beta form are those of the closed form for t = f(t) + a·u; a = 0: f(t) itself."""
    net, base = Linear(), picture(4, low=110, high=140)
    a, b = net.matrix((3, 4, 5)).numpy(), (base.double() / 255).flatten().numpy()
    goal = Goal(
        feature=torch.from_numpy(a @ b + np.linspace(-0.4, 0.6, DIM)), axis=torch.eye(DIM, dtype=torch.float64)[2]
    )
    beta0 = 0.25
    beta = beta0 * DIM**2 / 60**2
    x = published_minimiser(a, b, goal.feature.numpy() + overshoot * np.eye(DIM)[2], beta)
    assert x.min() > 0
    assert x.max() < 1
    made = collide(Collision(eps=None, beta=beta0, passes=2000, overshoot=overshoot), [base], [goal], net=net)
    difference = made.pictures[0].flatten().double().numpy() - x * 255
    assert np.abs(difference).max() < 0.501


def test_the_papers_beta_follows_the_sizes():
    """β = β₀·d²/(height·width·3)²: the same numbers in `Pull` give the same picture."""
    net, base = Linear(), picture(6)
    goal = goal_of(net, 60)
    pull = Pull(0.25 * 6**2 / (3 * 4 * 5) ** 2)
    alone = lone_descent(net, base.double() / 255, goal.feature, pull, Backtracking(step=0.02), 40)
    made = collide(Collision(eps=None, beta=0.25, passes=40, overshoot=0), [base], [goal])
    assert torch.equal(made.pictures[0], pull.quantise(alone, base))
    assert not torch.equal(made.pictures[0], base)


def test_pull_is_the_published_backward_step():
    x, b = picture(1)[None].double() / 255, picture(2)[None].double() / 255
    for step, beta in [(0.1, 0.25), (3.0, 7.0), (1e-3, 100.0)]:
        published = (x + step * beta * b) / (1 + step * beta)
        assert torch.allclose(Pull(beta).prox(x, torch.tensor([step], dtype=x.dtype), b), published, rtol=0, atol=1e-14)
    assert Pull(3.0).cost(x, b).tolist() == pytest.approx([1.5 * float((x - b).square().sum())])
    assert Pull(float("inf")).cost(b, b).tolist() == [0]


# --- identities


@pytest.mark.parametrize(
    "attack",
    [
        Collision(eps=0.0, passes=25),
        Collision(eps=0.9 / 255, passes=25),  # less than a level: nothing that can be stored
        Collision(eps=None, beta=1e30, passes=25),
        Collision(eps=None, beta=math.inf, passes=25),
    ],
    ids=["eps=0", "eps<1/255", "beta=1e30", "beta=inf"],
)
def test_no_freedom_returns_the_base(attack):
    bases = [picture(seed) for seed in range(3)]
    made = collide(attack, bases, [goal_of(Linear(), 20 + i) for i in range(3)])
    assert all(torch.equal(poison, base) for poison, base in zip(made.pictures, bases, strict=True))
    assert made.failures == [None] * 3


def test_a_target_that_is_reached_already_leaves_the_base():
    base = picture(3)
    goal = Goal(feature=Linear()([base.double() / 255])[0], axis=torch.eye(DIM, dtype=torch.float64)[0])
    for attack in (Collision(overshoot=0, passes=12), Collision(eps=None, overshoot=0, passes=12)):
        assert torch.equal(collide(attack, [base], [goal]).pictures[0], base)


# --- budget


@given(
    eps=st.one_of(st.floats(0, 1), st.integers(0, 255).map(lambda level: level / 255)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_poisons_never_leave_their_budget(eps, seed):
    base = picture(seed)
    base.view(-1)[:4] = torch.tensor([0, 255, 0, 255], dtype=torch.uint8)
    made = collide(Collision(eps=eps, passes=6), [base], [goal_of(Linear(), seed + 1)])
    levels = math.floor(eps * 255 + 1e-6)
    assert (made.pictures[0].int() - base.int()).abs().max() <= levels
    assert (made.pictures[0].double() / 255 - base.double() / 255).abs().max() <= eps + 1e-8


@given(
    eps=st.floats(0, 1),
    values=st.lists(st.tuples(st.sampled_from([0, 1, 7, 128, 254, 255]), st.floats(0, 1)), min_size=1, max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_rounding_stays_inside_the_budget(eps, values):
    """From anywhere in [0, 1]; inside the ball the picture moves by less than a level."""
    base = torch.tensor([b for b, _ in values], dtype=torch.uint8)
    x = torch.tensor([v for _, v in values], dtype=torch.float64)
    stored = Ball(eps).quantise(x, base)
    assert stored.dtype == torch.uint8
    assert (stored.int() - base.int()).abs().max() <= math.floor(eps * 255 + 1e-6)
    inside = Ball(eps).prox(x.clone(), 0.0, base.double() / 255)
    assert (Ball(eps).quantise(inside, base).double() - inside * 255).abs().max() < 1 + 1e-6
    assert (inside - base.double() / 255).abs().max() <= eps + 1e-12


def test_the_whole_budget_is_used_for_whole_levels():
    """8/255 is 8 levels, not the 7 that a floor of 7.999… gives."""
    base = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    for level in range(256):
        moved = Ball(level / 255).quantise(torch.ones(3, 2, 2, dtype=torch.float64), base)
        assert int(moved.max()) == min(100 + level, 255)


# --- a batch is its members


def table(count: int = 5) -> tuple[list[Tensor], list[Goal]]:
    """Bases of three sizes with goals of their own."""
    shapes = [(3, 4, 5), (3, 2, 7), (3, 6, 3)]
    bases = [picture(i, shapes[i % 3]) for i in range(count)]
    return bases, [goal_of(Linear(), 40 + i, axis=i % DIM) for i in range(count)]


FORMS = {
    "linf": Collision(passes=23),
    "beta": Collision(eps=None, passes=23),
    "plain": Collision(overshoot=0, passes=23),
}
forms = pytest.mark.parametrize("attack", FORMS.values(), ids=FORMS)


@forms
def test_each_poison_is_what_it_would_be_alone(attack):
    bases, goals = table()
    together = collide(attack, bases, goals)
    assert [p.shape for p in together.pictures] == [b.shape for b in bases]
    assert not any(torch.equal(p, b) for p, b in zip(together.pictures, bases, strict=True))
    for base, goal, poison in zip(bases, goals, together.pictures, strict=True):
        assert torch.equal(collide(attack, [base], [goal]).pictures[0], poison)


@forms
def test_permuting_the_targets_permutes_the_poisons(attack):
    bases, goals = table()
    order = [3, 0, 4, 2, 1]
    straight = collide(attack, bases, goals)
    permuted = collide(attack, [bases[i] for i in order], [goals[i] for i in order])
    for place, i in enumerate(order):
        assert torch.equal(permuted.pictures[place], straight.pictures[i])


@forms
def test_finished_pictures_leave_and_the_others_do_not_notice(attack):
    bases, goals = table()
    net = Linear()

    def some(features: Tensor, indices: list[int]) -> Tensor:
        return torch.tensor([i in (1, 3) for i in indices])

    shown = []

    def check(pictures: list[Tensor]) -> Tensor:
        shown.extend(pictures)
        return Linear()(pictures)

    full, made = collide(attack, bases, goals), collide(attack, bases, goals, net=net, stop=some, check=check)
    assert full.passes == [23] * 5
    assert made.passes == [23, 11, 23, 11, 23]  # the eleventh pass is the first whose features are looked at
    assert net.calls == [5] * 11 + [3] * 12
    for i in (0, 2, 4):
        assert torch.equal(made.pictures[i], full.pictures[i])
    # those that left are to the last bit what the check has seen
    assert len(shown) == 2
    for i, seen in zip((1, 3), shown, strict=True):
        assert torch.equal(made.pictures[i].double() / 255, seen)


def test_the_stop_test_is_believed_only_in_full_precision():
    """`likely` sees the crafting features; `sure` the check's features of those pictures as they will be stored."""
    bases, goals = table(3)
    seen = []

    def likely(features: Tensor, indices: list[int]) -> Tensor:
        seen.append(("likely", features.clone(), list(indices)))
        return torch.tensor([i != 0 for i in indices])

    def sure(features: Tensor, indices: list[int]) -> Tensor:
        seen.append(("sure", features.clone(), list(indices)))
        return features[:, 0] < 1e6

    def check(pictures: list[Tensor]) -> Tensor:
        """Sees of picture 2 (the second asked about) what no stop test believes."""
        assert all(torch.equal((x * 255).round() / 255, x) for x in pictures)  # stored levels
        features = Linear()(pictures)
        if len(pictures) > 1:
            features[1] = 1e9
        return features

    made = collide(Collision(passes=15, every=10), bases, goals, stop=Stop(likely=likely, sure=sure), check=check)
    assert made.passes == [15, 11, 15]
    assert [(test, indices) for test, _, indices in seen] == [("likely", [0, 1, 2]), ("sure", [1, 2])]
    stored = made.pictures[1].double() / 255
    assert torch.equal(seen[1][1][0], Linear()([stored])[0])


def test_a_check_sees_who_is_left_by_its_own_number_and_in_its_own_budget() -> None:
    bases, goals = [picture(i) for i in range(3)], [goal_of(Linear(), 40 + i) for i in range(3)]
    asked: list[list[int]] = []
    shown: list[Tensor] = []

    def likely(features: Tensor, indices: list[int]) -> Tensor:
        return torch.tensor([i == (0 if 0 in indices else 2) for i in indices])

    def sure(features: Tensor, indices: list[int]) -> Tensor:
        asked.append(list(indices))
        return torch.ones(len(indices), dtype=torch.bool)

    def check(pictures: list[Tensor]) -> Tensor:
        shown.extend(pictures)
        return Linear()(pictures)

    made = collide(Collision(passes=25, every=5), bases, goals, stop=Stop(likely=likely, sure=sure), check=check)
    assert asked == [[0], [2]]  # the first leaves, then the last, of the two that are left
    assert made.passes == [6, 25, 11]
    for i, seen in zip((0, 2), shown, strict=True):
        assert (255 * seen - bases[i]).abs().max() <= 8 + 1e-9


@pytest.mark.parametrize(("said", "passes"), [((1, 1), 6), ((1, -1), 25), ((-1, 1), 25)])
def test_every_check_has_to_be_sure(said: tuple[float, float], passes: int) -> None:
    bases, goals = table(3)
    stop = Stop(likely=lambda f, i: torch.ones(len(i), dtype=torch.bool), sure=lambda f, i: f[:, 0] > 0)
    checks = [lambda pictures, value=value: torch.full((len(pictures), DIM), value) for value in said]
    made = Collision(passes=25, every=5)(Linear(), bases, goals, stop=stop, checks=checks)
    assert made.passes == [passes] * 3


def test_the_batch_ends_when_all_have_left():
    bases, goals = table(2)
    net = Linear()
    made = collide(Collision(passes=60), bases, goals, net=net, stop=lambda f, i: torch.ones(len(i), dtype=torch.bool))
    assert made.passes == [11, 11]
    assert len(net.calls) == 11


def test_every_counts_the_passes_between_two_looks():
    looks = []

    def stop(features: Tensor, indices: list[int]) -> Tensor:
        looks.append(len(net.calls))
        return never(features, indices)

    bases, goals = table(1)
    net = Linear()
    collide(Collision(passes=17, every=4), bases, goals, net=net, stop=stop)
    assert looks == [5, 9, 13, 17]


# --- failures


def poisoned_gradient(kind: str, victim: tuple[int, ...], at: int):
    """Linear, but for pictures of one size its features or gradient become unusable at a pass."""
    plain, count = Linear(), SimpleNamespace(passes=0)

    def net(pictures: list[Tensor]) -> Tensor:
        count.passes += 1
        rows = []
        for x in pictures:
            row = plain([x])[0]
            if tuple(x.shape) == victim and count.passes >= at:
                extra = (x - x.detach()).abs().sum()
                row = row + (extra.sqrt() if kind == "gradient" else float(kind) * (1 + extra))
            rows.append(row)
        return torch.stack(rows)

    return net


@forms
@pytest.mark.parametrize("kind", ["gradient", "nan", "inf"])
@pytest.mark.parametrize("at", [1, 7])
def test_a_picture_without_a_finite_gradient_fails_alone(attack, kind, at):
    bases, goals = table(3)  # three sizes: one picture each
    net = poisoned_gradient(kind, tuple(bases[1].shape), at)
    made = collide(attack, bases, goals, net=net)
    sound = collide(attack, bases, goals)
    assert [failure is not None for failure in made.failures] == [False, True, False]
    assert f"pass {at}" in made.failures[1]
    assert made.passes == [23, at, 23]
    assert made.pictures[1].dtype == torch.uint8
    for i in (0, 2):
        assert torch.equal(made.pictures[i], sound.pictures[i])


@pytest.mark.parametrize("offset", [0.0, 100.0], ids=["perfect collision", "no gradient"])
@pytest.mark.parametrize("attack", [Collision(eps=None, passes=200, overshoot=0), Collision(passes=200, overshoot=0)])
def test_where_nothing_moves_the_base_is_left_however_long(attack, offset):
    weight = torch.randn(60, DIM, generator=torch.Generator().manual_seed(3))

    def net(pictures: list[Tensor]) -> Tensor:
        return torch.relu(torch.stack([x.flatten() for x in pictures]) @ weight - offset)

    base = picture(9)
    goal = Goal(feature=net([base / 255])[0] + offset, axis=torch.zeros(DIM))
    made = collide(attack, [base], [goal], net=net, check=net)
    assert (made.failures, made.passes) == ([None], [200])
    assert torch.equal(made.pictures[0], base)


def test_a_picture_that_fails_is_kept_as_it_last_was():
    class Breaks(Backtracking):
        def __call__(self, state, x, value, gradient, number, prox):
            return x + (0.125 if number < 2 else math.nan), None

    base = torch.full((3, 2, 2), 0.25)
    pictures, spent, failures = descend(
        lambda some: torch.stack([x.flatten() for x in some]),
        [base],
        objective=lambda features, active: features.square().sum(1),
        budget=lambda values: Ball(1.0),
        rule=Breaks(step=0.01),
        passes=9,
        finished=lambda pictures, features, active: [False],
        every=10,
    )
    assert spent == [4]
    assert "not a finite number at pass 4" in (failures[0] or "")
    assert torch.equal(pictures[0], base + 0.25)


# --- the caller's own


@forms
def test_what_the_caller_gave_is_left_as_it_was(attack):
    bases, goals = table()
    before = [base.clone() for base in bases], [(g.feature.clone(), g.axis.clone()) for g in goals]
    answer = torch.zeros(len(bases), dtype=torch.bool)
    answer[2] = True

    def stop(features: Tensor, indices: list[int]) -> Tensor:
        return answer if len(indices) == len(answer) else torch.zeros(len(indices), dtype=torch.bool)

    collide(attack, bases, goals, stop=stop)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before[0], bases, strict=True))
    for (feature, axis), goal in zip(before[1], goals, strict=True):
        assert torch.equal(feature, goal.feature)
        assert torch.equal(axis, goal.axis)
    assert answer.tolist() == [False, False, True, False, False]


def test_a_rejected_step_is_undone():
    """Backtracking keeps the best picture seen: its objective never ends above the base's."""
    net, base = Linear(), picture(8).double() / 255
    aim = goal_of(net, 80).feature
    at_base = float((net([base])[0] - aim).square().sum())
    for step in (1e-4, 0.02, 5.0):  # the last overshoots at once
        found = lone_descent(net, base, aim, Pull(0.0), Backtracking(step=step), 12)
        assert float((net([found])[0] - aim).square().sum()) < at_base
