"""The drawn explanations: small SVGs of our own, with this run's own pictures where it has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from poisonfrogs.report.embed import Embedded
from poisonfrogs.report.figures import cloud, drawing, mark
from poisonfrogs.report.html import clipped, tag

SIDE = 88  # of a picture in a drawing


@dataclass(frozen=True)
class Row:
    """Pictures in a row, each with two lines below it, a sign between two."""

    note: str
    pictures: Sequence[tuple[Embedded | None, str, str]]
    signs: str


def rows_of_pictures(rows: Sequence[Row], title: str, text: str) -> Markup:
    """Rows one below the other: picture + change = picture."""
    parts: list[Markup] = []
    step = SIDE + 74
    for number, row in enumerate(rows):
        top = number * step + 20
        parts.append(words(row.note, 4, top - 6, "note"))
        for i, (picture, first, second) in enumerate(row.pictures):
            x = 30 + i * (SIDE + 62)
            parts += [image(picture, x, top), words(first, x + SIDE / 2, top + SIDE + 17, "label middle")]
            parts.append(words(second, x + SIDE / 2, top + SIDE + 34, "strong middle"))
        for i, sign in enumerate(row.signs, 1):
            parts.append(words(sign, i * (SIDE + 62) - 1, top + SIDE / 2 + 8, "operator middle"))
    return drawing(parts, title, text, 3 * SIDE + 2 * 62 + 60, len(rows) * step)


def image(picture: Embedded | None, x: float, y: float, side: float = SIDE) -> Markup:
    """A picture of the run in its square, or an empty square that says there is none."""
    box = tag("rect", x=x, y=y, width=side, height=side, class_="hole")
    if picture is None:
        return box + words("no picture", x + side / 2, y + side / 2 + 4, "tick middle")
    crisp = "pixelated" if max(picture.width, picture.height) <= side else None
    return box + tag("image", x=x, y=y, width=side, height=side, href=picture.uri, class_=crisp)


def words(text: str, x: float, y: float, class_: str = "label") -> Markup:
    """A line of text."""
    return tag("text", text, x=x, y=y, class_=class_)


def box(x: float, y: float, width: float, height: float, lines: Sequence[str], class_: str = "box") -> Markup:
    """A box with lines of text in its middle."""
    first = y + height / 2 + 5 - 9 * (len(lines) - 1)
    inside = [words(line, x + width / 2, first + 18 * i, "label middle") for i, line in enumerate(lines)]
    return Markup("").join([tag("rect", x=x, y=y, width=width, height=height, rx=6, class_=class_), *inside])


def arrow(x1: float, y1: float, x2: float, y2: float, class_: str = "arrow") -> Markup:
    """A line with a head."""
    angle = math.atan2(y2 - y1, x2 - x1)
    wings = [(x2 - 9 * math.cos(angle + turn), y2 - 9 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
    head = "L".join(f"{x:.1f} {y:.1f}" for x, y in (wings[0], (x2, y2), wings[1]))
    return tag("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}M{head}", class_=class_)


def collision(stage: int, target: str, base: str) -> Markup:
    """Stage 0: before; 1: the poison collides with the target; 2: the boundary takes the poison in, and the target."""
    width, height = 300, 220
    lefts = [(30, 60), (44, 92), (36, 124), (72, 134), (54, 160), (26, 30), (92, 158), (52, 44), (104, 136), (34, 184)]
    rights = [(300 - x, 210 - y * 0.9) for x, y in lefts]
    aim, start, place = (96, 78), (222, 150), (112, 66)
    boundary = "M150 8C150 80 150 140 150 212" if stage < 2 else "M112 8C44 16 40 120 112 120C156 120 152 164 152 212"
    shaded = boundary + f"L{width - 4} 212L{width - 4} 8Z"
    parts = [
        tag("rect", x=4, y=8, width=width - 8, height=204, class_="hole"),
        tag("path", d=shaded, class_="half"),
        tag("path", d=boundary, class_="boundary"),
        cloud(lefts, "target", 8),
        cloud(rights, "base", 8),
        mark("star", *aim, "target", 9),
    ]
    if stage == 0:
        parts += [mark("square", *start, "base", 9), words("base", start[0] + 14, start[1] + 5, "tick")]
    else:
        parts.append(mark("diamond", *place, "poison", 9))
        parts.append(words("poison", place[0], place[1] - 14, "tick middle"))
    if stage == 1:
        parts.append(arrow(start[0] - 6, start[1] - 8, place[0] + 8, place[1] + 12))
    parts.append(words("target", aim[0], aim[1] + 24, "tick middle"))
    parts += [words(clipped(target, 14), 12, 204, "label"), words(clipped(base, 14), width - 12, 24, "label end")]
    said = (
        f"Before: the boundary separates {target} from {base}; the target lies among {target}.",
        "The poison is moved, in feature space, from its base to the target.",
        f"Trained on the poison, the boundary takes it into {base}, and the target with it.",
    )
    return drawing(parts, f"Feature collision, step {stage + 1}", said[stage], width, height)


def context(end_to_end: bool) -> Markup:
    """What is trained: the last layer only, or everything."""
    frozen = "box" if end_to_end else "box locked"
    parts = [
        box(4, 40, 84, 56, ["training", "pictures"], "box plain"),
        arrow(92, 68, 116, 68),
        box(120, 24, 130, 88, ["extractor", "trained again" if end_to_end else "frozen"], frozen),
        arrow(254, 68, 278, 68),
        box(282, 40, 100, 56, ["last layer", "trained"], "box"),
    ]
    name = "End to end" if end_to_end else "Frozen extractor"
    said = "Every layer is trained on the poison." if end_to_end else "Only the last layer is trained on the poison."
    return drawing(parts, name, said, 386, 132)


def way_in(steps: Sequence[str], name: str) -> Markup:
    """A way from an attacker into a training set: boxes and arrows."""
    parts = []
    for i, step in enumerate(steps):
        kind = "box poison" if i == 0 else "box" if i == len(steps) - 1 else "box plain"
        parts.append(box(4 + i * 124, 8, 102, 52, step.split("|"), kind))
        if i:
            parts.append(arrow(4 + i * 124 - 19, 34, 4 + i * 124 - 3, 34))
    return drawing(parts, name, ", then ".join(step.replace("|", " ") for step in steps) + ".", 358, 68)


def bars(shares: dict[str, float], title: str) -> Markup:
    """A bar a share, from 0 to 100 %."""
    parts = []
    for i, (name, value) in enumerate(shares.items()):
        y = 4 + 34 * i
        parts += [
            tag("rect", x=140, y=y, width=180, height=22, class_="hole"),
            tag("rect", x=140, y=y, width=180 * value, height=22, class_="bar"),
            words(name, 132, y + 16, "label end"),
            words(f"{value:.2%}", 328, y + 16, "strong"),
        ]
    said = "; ".join(f"{name} {value:.2%}" for name, value in shares.items())
    return drawing(parts, title, f"{said}.", 404, 34 * len(shares))


def share(yes: int, of: int, title: str, text: str) -> Markup:
    """A square a poison: filled for those that count; a bar where there are very many."""
    if of > 240:
        full = 380 * yes / of
        parts = [
            tag("rect", x=4, y=8, width=380, height=24, class_="hole"),
            tag("rect", x=4, y=8, width=full, height=24, class_="bar base"),
        ]
        return drawing(parts, title, text, 388, 40)
    across = 24
    parts = [
        tag("rect", x=4 + 16 * (i % across), y=4 + 16 * (i // across), width=12, height=12,
            class_="unit on" if i < yes else "unit")
        for i in range(of)
    ]  # fmt: skip
    return drawing(parts, title, text, 388, 8 + 16 * math.ceil(of / across))
