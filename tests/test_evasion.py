"""The test-time attack: inside its ball, optimal where that is known, and strong on real pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from poisonfrogs import extract_features, load_data, load_model
from poisonfrogs.evasion import Ball2, Evasion
from poisonfrogs.exhibits import EVASIONS
from poisonfrogs.logistic import Rows
from poisonfrogs.train import LogisticHead

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(3, 6, 6), (3, 4, 9), (3, 1, 1)]


def pictures(seed: int = 0, low: int = 0, high: int = 256) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(low, high, shape, generator=generator, dtype=torch.uint8) for shape in SHAPES]


def linear(weights: list[Tensor]):
    """A classifier of two classes whose margin is ⟨w, x⟩, each picture with a w of its own."""

    def net(seen: list[Tensor]) -> Tensor:
        return torch.stack([(x * w).sum() for x, w in zip(seen, weights, strict=True)])[:, None]

    return net, lambda features, _: torch.cat([features, -features], 1)


def norms(made: list[Tensor], bases: list[Tensor]) -> list[tuple[float, float]]:
    changes = [(a.double() - b.double()) / 255 for a, b in zip(made, bases, strict=True)]
    return [(float(change.abs().max()), float(change.norm())) for change in changes]


@pytest.mark.parametrize("eps", [8 / 255, 2 / 255, 0.05, 0.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_stays_in_its_ball_as_stored(norm: str, eps: float) -> None:
    bases = pictures()
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]
    net, classifier = linear(weights)
    made = Evasion(norm=norm, eps=eps, passes=20, confidence=1.0)(net, bases, [0, 1, 0], classifier)  # type: ignore[arg-type]
    assert [one.dtype for one in made] == [torch.uint8] * 3
    for (linf, l2), base in zip(norms(made, bases), bases, strict=True):
        if norm == "linf":
            assert linf <= eps + 1e-9
        else:
            assert l2 <= eps * base.numel() ** 0.5 + 1e-9
    assert eps == 0 or all(not torch.equal(a, b) for a, b in zip(made, bases, strict=True))


def test_on_a_linear_classifier_it_is_the_optimum() -> None:
    """Away from black and white the best l-inf change is eps·sign w, the best l2 change r·w/‖w‖."""
    bases = pictures(low=60, high=200)
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(2)) for shape in SHAPES]
    net, classifier = linear(weights)
    made = Evasion(eps=8 / 255, confidence=1.0)(net, bases, [0, 0, 0], classifier)
    for one, base, w in zip(made, bases, weights, strict=True):
        assert torch.equal(one.int() - base.int(), 8 * w.sign().int())
    made = Evasion(norm="l2", eps=10 / 255, confidence=1.0)(net, bases, [0, 0, 0], classifier)
    for one, base, w in zip(made, bases, weights, strict=True):
        best = 10 * base.numel() ** 0.5 * w / w.norm()
        assert (
            float((one.double() - base.double() - best).abs().max()) <= 0.75
        )  # half a level, and what keeps it inside


def test_the_wanted_class_is_a_picture_s_own_and_it_stops_when_sure() -> None:
    bases = pictures(low=60, high=200)
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in SHAPES]
    net, classifier = linear(weights)
    towards, away = (Evasion(confidence=1.0)(net, bases, [wanted] * 3, classifier) for wanted in (0, 1))
    for a, b, base in zip(towards, away, bases, strict=True):
        assert torch.equal(a.int() - base.int(), base.int() - b.int())
    asked = []

    def counting(seen: list[Tensor]) -> Tensor:
        asked.append(len(seen))
        return 1e3 + sum(x.sum() for x in seen) * torch.zeros(len(seen), 1)

    Evasion(passes=40)(counting, bases, [0, 0, 0], classifier)
    assert asked == [3] * 6  # sure at the first look


def test_who_is_left_is_asked_about_its_own_class() -> None:
    """The first is sure at once, the second from the ninth pass on, and of the other class."""
    asked = []

    def counting(seen: list[Tensor]) -> Tensor:
        asked.append(len(seen))
        return torch.stack([x.sum() for x in seen])[:, None]

    def classifier(features: Tensor, active: list[int]) -> Tensor:
        said = [[9.0, 0.0], [0.0, 9.0 * (len(asked) > 8)]]
        return torch.tensor([said[i] for i in active]) + 0 * features

    Evasion(passes=40)(counting, pictures()[:2], [0, 1], classifier)
    assert asked == [2] * 6 + [1] * 5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), radius=st.floats(0, 3), way=st.floats(0, 5))
def test_the_l2_ball_projects_and_rounds_inside(seed: int, radius: float, way: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 256, (3, 5, 4), generator=generator, dtype=torch.uint8)
    start = base.double() / 255
    x = start + way * torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    ball = Ball2(radius)
    (inside,) = ball.prox(x[None], 0.0, start[None])
    assert float((inside - start).norm()) <= radius + 1e-9
    assert 0 <= float(inside.min()) <= float(inside.max()) <= 1
    assert torch.allclose(ball.prox(inside[None], 0.0, start[None])[0], inside)
    stored = ball.quantise(inside, base)
    assert float((stored.double() - base.double()).norm()) <= 255 * radius + 1e-6
    assert torch.equal(ball.quantise(start, base), base)


def test_it_beats_a_real_network_on_real_pictures(cache: Path) -> None:
    """Ten planes that a head on EfficientNet-Lite0 gets right become frogs, as stored, through the library's own view."""
    net, data = load_model("tf_efficientnet_lite0", view="squash", size=96), load_data("frogs-and-planes")
    chosen = [i for label in (0, 1) for i in (data.train.labels == label).nonzero()[0][:60]]
    rows = data.train.select(chosen)
    held = extract_features(net, rows, cache=cache).matrix
    none = torch.empty(1, 0, dtype=torch.int64)
    heads = LogisticHead(c=100.0)(Rows(held, torch.from_numpy(rows.labels), held[None, :0], none, none), 2, seed=0)
    planes = data.test.select((data.test.labels == 0).nonzero()[0][:12])
    images = [planes[i] for i in range(len(planes))]

    def said(shown: list) -> Tensor:
        return heads.predict(net.features(shown))[0].argmax(1)

    right = [image for image, label in zip(images, said(images), strict=True) if label == 0][:5]
    assert len(right) == 5
    bases = [torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in right]
    for attack in EVASIONS:
        made = replace(attack, passes=20)(net.extractor("fp32"), bases, [1] * 5, lambda f, _: heads.logits(f)[0])
        from PIL import Image

        stored = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in made]
        assert int(said(stored).sum()) >= 4, attack
        limit = attack.eps if attack.norm == "linf" else attack.eps * bases[0].numel() ** 0.5
        assert all(pair[attack.norm == "l2"] <= limit + 1e-9 for pair in norms(made, bases))
