"""How far the network turns: what the page draws is what the journal's rows hold."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pages import Page, edited, read
from poisonfrogs.report import page
from poisonfrogs.report.sections import turns

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ("body.conv1.weight", "body.<b>2.weight", "linear.weight")
EPOCHS = 4
VICTIMS = {"poisoned": 3.0, "watermark_only": 2.0, "control": 1.0}


def angle(victim: str, layer: int, epoch: int, trial: int) -> float:
    """Made up: nothing here is symmetric, so that no two medians are the same."""
    return round(VICTIMS[victim] * (layer + 1) * epoch**0.5 + 0.01 * trial**2, 4)


def followed(trial: int) -> dict[str, Any]:
    return {
        "boundary_rotation": [round(0.3 * epoch + 0.1 * trial**2, 4) for epoch in range(1, EPOCHS + 1)],
        "layer_rotation": {
            victim: {
                name: [angle(victim, place, epoch, trial) for epoch in range(1, EPOCHS + 1)]
                for place, name in enumerate(LAYERS)
            }
            for victim in VICTIMS
        },
    }


def with_rows(run: Path, to: Path, more: Any) -> Path:
    """A run whose first five trials have what `more` says of each, and whose others are as older runs left them."""
    return edited(run, to, lambda rows: [row | (more(i) if i < 5 else {}) for i, row in enumerate(rows)])


@pytest.fixture
def made(run: Path, tmp_path: Path) -> Path:
    return with_rows(run, tmp_path / "made", followed)


def test_the_boundary_s_quartiles_are_those_of_the_rows(made: Path) -> None:
    _, opened = page.opened(made)
    found = turns.by_epoch([one.boundary_rotation for one in opened.outcomes if one.boundary_rotation])
    # of five values in order the second, third and fourth: those of trials 1, 2 and 3
    assert [row[0] for row in found] == [1, 2, 3, 4]
    for epoch, middle, lower, upper, of in found:
        assert (middle, lower, upper) == pytest.approx((0.3 * epoch + 0.4, 0.3 * epoch + 0.1, 0.3 * epoch + 0.9))
        assert of == 5
    words = read(made).words
    assert "the boundary, after 4 epochs 1.60° median of 5 trials; half of them from 1.30° to 2.10°" in words
    assert "4 1.600 1.300 2.100 5" in words  # the table


def heights(drawing: str) -> list[list[float]]:
    """Of each curve."""
    curves = re.findall(r'<path d="(M[^"]+)"', drawing)
    return [[float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", curve)] for curve in curves]


def places(drawing: str) -> list[float]:
    """How far to the right each mark stands: the middle of its corners, or of its circle."""
    marks = re.findall(r'<polygon points="([^"]+)"|<circle cx="([\d.]+)"', drawing)
    corners = [[float(x) for x in re.findall(r"([\d.]+),", polygon)] or [float(x)] for polygon, x in marks]
    return [sum(xs) / len(xs) for xs in corners]


def test_what_is_drawn_stands_where_the_numbers_are(made: Path) -> None:
    """By a second reading of the drawings."""
    section = turns.section(page.opened(made)[1])
    assert section
    boundary, last, lines = re.findall(r"<svg.*?</svg>", section.body, re.DOTALL)

    (curve,) = heights(boundary)  # from 0 at 220 to a little above the highest quartile at 14
    assert curve == pytest.approx([220 - (0.3 * epoch + 0.4) / (1.06 * 2.1) * 206 for epoch in range(1, 5)], abs=0.06)

    ends = [[angle(victim, place, EPOCHS, 2) for victim in VICTIMS] for place in range(len(LAYERS))]
    low, high = min(map(min, ends)), max(map(max, ends))
    first, span = low - 0.06 * (high - low), 1.12 * (high - low)  # the axis begins a little before the lowest
    expected = [140 + (value - first) / span * (420 - 24 - 140) for row in ends for value in row]
    assert places(last)[:-3] == pytest.approx(expected, abs=0.06)  # three are the key's
    for name, row in zip(("conv1", "&lt;b&gt;2", "linear"), ends, strict=True):
        said = ", ".join(f"{look.name} {value:.3g}" for look, value in zip(turns.VICTIMS.values(), row, strict=True))
        assert f"{name}: {said}" in last

    drawn = [curve for curve in heights(lines) if len(curve) == EPOCHS]
    for number, curve in enumerate(drawn):
        row, victim = number // 3, list(VICTIMS)[number % 3]
        values = [median(angle(victim, row, epoch, trial) for trial in range(5)) for epoch in range(1, EPOCHS + 1)]
        assert curve == pytest.approx([34 * row + 31 - value / (1.06 * high) * 26 for value in values], abs=0.06)
    assert len(drawn) == 9


def test_the_tables_hold_every_median_and_the_names_stay_text(made: Path) -> None:
    shown = read(made)
    for place, layer in enumerate(LAYERS):
        ends = [f"{angle(victim, place, EPOCHS, 2):.3f}" for victim in VICTIMS]
        assert " ".join([layer, *ends]) in shown.words
        for victim, look in turns.VICTIMS.items():
            row = [f"{angle(victim, place, epoch, 2):.3f}" for epoch in range(1, EPOCHS + 1)]
            assert " ".join([layer, look.name, *row]) in shown.words
    # three times as far as the control's, so that the last layer, which turns furthest, is ahead by most
    assert "than without 3 of 3 linear most: 18.04° against 6.04°; by their medians" in shown.words
    assert "<b>2" not in (made / "report.html").read_text()


def test_it_stands_beside_the_feature_space_and_only_where_rows_have_it(run: Path, made: Path) -> None:
    anchors = [one["id"] for one in read(made).all("section") if one.get("id")]
    assert anchors[anchors.index("space") + 1] == "turns"
    assert "How far the network turns" not in read(run).words


def without_watermark(trial: int) -> dict[str, Any]:
    held = followed(trial)
    del held["layer_rotation"]["watermark_only"]
    return held


def broken_off(trial: int) -> dict[str, Any]:
    """The second trial's victim ended after two epochs, the third's after none."""
    held = followed(trial)
    kept = {1: 2, 2: 0}.get(trial, EPOCHS)
    held["boundary_rotation"] = held["boundary_rotation"][:kept]
    held["layer_rotation"]["poisoned"] = {
        name: values[:kept] for name, values in held["layer_rotation"]["poisoned"].items()
    }
    return held


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (without_watermark, "linear.weight 18.040 6.040"),
        (broken_off, "4 2.100 1.650 2.450 3"),
        (lambda trial: followed(trial) | {"layer_rotation": None}, "4 1.600 1.300 2.100 5"),
        (lambda trial: followed(trial) | {"boundary_rotation": None}, "linear.weight 18.040 12.040 6.040"),
    ],
)
def test_what_is_missing_is_left_out(more: Any, said: str, run: Path, tmp_path: Path) -> None:
    shown: Page = read(with_rows(run, tmp_path / "run", more))
    assert "How far the network turns" in shown.words
    assert said in shown.words
    assert not shown.open


def test_layers_that_turn_less_than_the_control_s_are_not_said_to_turn_further(run: Path, tmp_path: Path) -> None:
    def swapped(trial: int) -> dict[str, Any]:
        held = followed(trial)["layer_rotation"]
        first = {LAYERS[0]: held["control"][LAYERS[0]]}
        return {"layer_rotation": {"poisoned": held["control"], "control": held["poisoned"] | first}}

    assert "than without 0 of 3 by their medians" in read(with_rows(run, tmp_path / "run", swapped)).words


def test_nothing_is_drawn_of_rows_that_hold_none(run: Path, tmp_path: Path) -> None:
    mine = with_rows(run, tmp_path / "run", lambda trial: {"boundary_rotation": None, "layer_rotation": None})
    assert "How far the network turns" not in read(mine).words


@pytest.mark.parametrize(("watermark", "asked"), [(0.3, "three"), (0.0, "two")])
def test_what_the_victims_were_trained_with_is_what_is_said(
    watermark: float, asked: str, run: Path, tmp_path: Path
) -> None:
    def retrained(held: dict[str, Any]) -> None:
        held["audit"] |= {"context": "end-to-end", "watermark": watermark, "epochs": 1, "learning_rate": 1e-4}

    html = page.write(edited(run, tmp_path / "run", lambda rows: rows, retrained)).path.read_text()
    assert f"was asked about by {asked} victims" in html
    assert ("The watermark alone" in html) == bool(watermark)


def test_weights_that_did_not_move_are_drawn(run: Path, tmp_path: Path) -> None:
    still = {"boundary_rotation": [0.0], "layer_rotation": {"poisoned": {"body.weight": [0.0]}}}
    shown = read(with_rows(run, tmp_path / "run", lambda trial: still))
    assert "the boundary, after 1 epoch 0.00°" in shown.words
