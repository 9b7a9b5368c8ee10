"""What every attack promises, over one table of instances."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, is_dataclass, replace

import pytest
import torch
from torch import Tensor

from poisonfrogs.attacks.collision import Collision
from poisonfrogs.types import Crafted, Goal, Stop

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACKS = {
    "linf": Collision(passes=21),
    "linf-16": Collision(passes=21, eps=16 / 255),
    "linf-odd": Collision(passes=21, eps=0.05),
    "linf-0": Collision(passes=21, eps=0.0),
    "plain": Collision(passes=21, overshoot=0.0),
    "beta": Collision(passes=21, eps=None),
    "beta-strong": Collision(passes=21, eps=None, beta=1e5),
    "beta-plain": Collision(passes=21, eps=None, overshoot=0.0),
}
SHAPES = [(3, 6, 6), (3, 4, 9), (3, 6, 6)]


@pytest.fixture(params=ATTACKS.values(), ids=ATTACKS)
def attack(request):
    return request.param


def net(pictures: list[Tensor]) -> Tensor:
    """Smooth, not linear, any size."""
    waves = torch.linspace(0.5, 4, 7)
    rows = []
    for x in pictures:
        place = torch.linspace(0, 1, x[0].numel()).view(x.shape[1:])
        rows.append(torch.tanh(torch.stack([(x * torch.sin(9 * w * place)).mean((1, 2)).sum() * 3 for w in waves])))
    return torch.stack(rows)


def second(features: Tensor, indices: list[int]) -> Tensor:
    return torch.tensor([i == 1 for i in indices], dtype=torch.bool)


stop = Stop(likely=second, sure=second)


def scene() -> tuple[list[Tensor], list[Goal]]:
    generator = torch.Generator().manual_seed(5)
    bases = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in SHAPES]
    axis = torch.nn.functional.normalize(torch.ones(7), dim=0)
    targets = [torch.rand(3, 5, 5, generator=generator) for _ in SHAPES]
    return bases, [Goal(feature=net([t])[0], axis=axis) for t in targets]


def run(attack) -> Crafted:
    bases, goals = scene()
    return attack(net, bases, goals, stop=stop, checks=[net])


def test_poisons_are_stored_pictures_of_their_bases_sizes(attack):
    made = run(attack)
    assert len(made.pictures) == len(made.passes) == len(made.failures) == 3
    assert [p.dtype for p in made.pictures] == [torch.uint8] * 3
    assert [tuple(p.shape) for p in made.pictures] == SHAPES
    assert not any(p.requires_grad for p in made.pictures)


def test_the_same_call_gives_the_same_poisons(attack):
    """Pure: no state from one call to the next, and no randomness but the arguments'."""
    torch.manual_seed(1)
    first = run(attack)
    torch.manual_seed(2)
    second = run(attack)
    assert all(torch.equal(a, b) for a, b in zip(first.pictures, second.pictures, strict=True))
    assert first.passes == second.passes


def test_the_global_generator_is_left_alone(attack):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(attack)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_budget_is_respected(attack):
    bases, _ = scene()
    if attack.eps is not None:
        for base, poison in zip(bases, run(attack).pictures, strict=True):
            assert (poison.int() - base.int()).abs().max() <= attack.eps * 255 + 1e-6
    else:  # a hundred times the pull moves the pictures less
        weak, strong = run(replace(attack, beta=1e2)), run(replace(attack, beta=1e4))
        moved = [
            sum(float((p.double() - b.double()).norm()) for p, b in zip(made.pictures, bases, strict=True))
            for made in (weak, strong)
        ]
        assert moved[1] < moved[0]


def test_the_objective_falls(attack):
    bases, goals = scene()
    if attack.eps == 0 or attack.beta > 1:
        pytest.skip("no room to move")
    made = run(attack)
    for base, goal, poison in zip(bases, goals, made.pictures, strict=True):
        aim = goal.feature + attack.overshoot * goal.axis
        before, after = ((net([x.float() / 255])[0] - aim).norm() for x in (base, poison))
        assert after < before


def test_passes_are_those_spent(attack):
    assert run(attack).passes == [21, 11, 21]


def test_an_empty_list_works(attack):
    def forbidden(pictures: list[Tensor]) -> Tensor:
        raise AssertionError("nothing is to be asked")

    empty = attack(lambda pictures: torch.empty(0, 7, requires_grad=True), [], [], stop=stop, checks=[forbidden])
    assert empty == Crafted(pictures=[], passes=[], failures=[])


def test_inputs_stay_unchanged(attack):
    bases, goals = scene()
    copies, features = [b.clone() for b in bases], [g.feature.clone() for g in goals]
    attack(net, bases, goals, stop=stop, checks=[net])
    assert all(torch.equal(a, b) for a, b in zip(bases, copies, strict=True))
    assert all(torch.equal(g.feature, f) for g, f in zip(goals, features, strict=True))


def test_an_attack_is_a_frozen_dataclass_of_plain_options(attack):
    assert is_dataclass(attack)
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in asdict(attack).values())
    assert type(attack)(**asdict(attack)) == attack
    with pytest.raises(FrozenInstanceError):
        attack.passes = 3
    with pytest.raises(TypeError):
        type(attack)(*asdict(attack).values())  # options are named
