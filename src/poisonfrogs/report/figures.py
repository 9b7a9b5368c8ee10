"""Charts: static SVG that follows the page's colours, each with a text alternative and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from poisonfrogs.report.html import tag

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 40

Point = tuple[float, float]
Tick = tuple[float, str]


@dataclass(frozen=True)
class Table:
    """The numbers of a figure."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart for the page."""

    svg: Markup
    title: str
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start)

    def ticks(self, wanted: int = 5, whole: bool = False) -> list[float]:
        """Round values inside the scale.

        >>> Axis(0, 1, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        span = (self.high - self.low) or 1.0
        rough, round_ = (max(span / wanted, 1.0), (1, 2, 5, 10)) if whole else (span / wanted, (1, 2, 2.5, 5, 10))
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * one for one in round_ if power * one >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """The range of values with some room around it; never empty."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * share or abs(high) * 0.05 or 0.5
    return low - room, high + room


def drawing(content: Sequence[Markup], title: str, text: str, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """An SVG with its text alternative."""
    shape = f"0 0 {width:g} {height:g}"
    return tag("svg", *content, viewBox=shape, role="img", aria_label=f"{title}. {text}")


def frame(
    x: Axis, y: Axis, labels: tuple[str, str], x_ticks: Sequence[Tick] | None = None, whole: bool = False
) -> Markup:
    """Grid, ticks and labels (x, y) of a chart; `whole`: y counts."""
    x_label, y_label = labels
    along = [(value, f"{value:g}") for value in x.ticks()] if x_ticks is None else x_ticks
    parts = [tag("line", x1=x.start, x2=x.end, y1=y(v), y2=y(v), class_="grid") for v in y.ticks(whole=whole)]
    parts += [tag("text", f"{v:g}", x=x.start - 6, y=y(v) + 4, class_="tick end") for v in y.ticks(whole=whole)]
    parts += [tag("text", label, x=x(value), y=y.start + 16, class_="tick middle") for value, label in along]
    parts += [tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis")]
    parts += [tag("text", x_label, x=(x.start + x.end) / 2, y=y.start + 34, class_="label middle")]
    middle = (y.start + y.end) / 2
    parts += [tag("text", y_label, x=12, y=middle, class_="label middle", transform=f"rotate(-90 12 {middle:g})")]
    return Markup("").join(parts)


def _axes(x: Point, y: Point, height: float = HEIGHT) -> tuple[Axis, Axis]:
    return Axis(*x, LEFT, WIDTH - RIGHT), Axis(*y, height - BOTTOM, TOP)


def paired(
    pairs: Sequence[Point], labels: tuple[str, str, str], title: str, limits: Point | None = None, tone: str = "base"
) -> Markup:
    """A vertical needle a trial, from its value before to its value after; `labels`: before, after, the y axis.

    Trials stand in the order given.
    """
    before, after, y_label = labels
    values = [value for pair in pairs for value in pair]
    x, y = _axes((0, len(pairs) + 1), limits or padded(values))
    radius = max(1.3, min(4.5, 150 / max(len(pairs), 1)))
    thin = max(0.5, min(1.5, 60 / max(len(pairs), 1)))
    needles, dots = [], []
    for number, (first, second) in enumerate(pairs, 1):
        at = x(number)
        needles.append(f"M{at:.1f} {y(first):.1f}V{y(second):.1f}")
        dots.append(tag("circle", cx=at, cy=y(first), r=radius, class_="dot before"))
        dots.append(tag("circle", cx=at, cy=y(second), r=radius, class_=f"dot {tone}"))
    ticks = [(n, f"{n:g}") for n in x.ticks(whole=True) if 0 < n <= len(pairs)]
    content = [
        frame(x, y, ("targets, in order", y_label), ticks),
        tag("path", d="".join(needles), class_="needle many" if len(pairs) > 60 else "needle", stroke_width=thin),
        *dots,
    ]
    return drawing(content, title, _pair_text(pairs, before, after, y_label))


def rate_bars(found: Sequence[tuple[str, float, tuple[float, float]]], title: str) -> Markup:
    """A bar a rate in [0, 1] with its interval, one below the other."""
    x = Axis(0, 1, LEFT, WIDTH - 2 * RIGHT)
    height = 54 * len(found)
    content = [tag("line", x1=x(v), x2=x(v), y1=8, y2=height, class_="grid") for v in x.ticks()]
    for number, (name, rate, (low, high)) in enumerate(found):
        top = 54 * number + 12
        content += [
            tag("text", name, x=LEFT, y=top + 6, class_="label"),
            tag("rect", x=LEFT, width=x(rate) - LEFT, y=top + 12, height=18, class_="bar"),
            tag("path", d=f"M{x(low):.1f} {top + 21}H{x(high):.1f}", class_="needle"),
        ]
    content += [tag("text", f"{100 * v:.0f} %", x=x(v), y=height + 18, class_="tick middle") for v in x.ticks()]
    said = [f"{name} {rate:.1%}, from {low:.1%} to {high:.1%}" for name, rate, (low, high) in found]
    return drawing(content, title, "; ".join(said) + ".", height=height + 30)


def _pair_text(pairs: Sequence[Point], before: str, after: str, what: str) -> str:
    if not pairs:
        return "No trial to show."
    ends = [sorted(pair[i] for pair in pairs) for i in (0, 1)]
    said = [
        f"{name} from {values[0]:.4g} to {values[-1]:.4g}" for name, values in zip((before, after), ends, strict=True)
    ]
    return f"{what} of {len(pairs)} targets: {said[0]}; {said[1]}."


def histogram(values: Sequence[float], x_label: str, title: str, bins: Sequence[float] | None = None) -> Markup:
    """Counts of values in equal bins, or in the bins whose edges are given."""
    edges = list(bins or _edges(values))
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = min(max(sum(edge <= value for edge in edges) - 1, 0), len(counts) - 1)
        counts[place] += 1
    x, y = _axes((edges[0], edges[-1]), (0, max([*counts, 1]) * 1.05))
    bars = [
        tag(
            "rect",
            x=x(low) + 0.75,
            width=max(x(high) - x(low) - 1.5, 0.5),
            y=y(number),
            height=y(0) - y(number),
            class_="bar",
        )
        for low, high, number in zip(edges, edges[1:], counts, strict=False)
        if number
    ]
    text = f"{len(values)} values from {min(values):.4g} to {max(values):.4g}." if values else "No value to show."
    return drawing([frame(x, y, (x_label, "how many"), whole=True), *bars], title, text)


def _edges(values: Sequence[float], wanted: int = 12) -> list[float]:
    low, high = padded(values, 0.02)
    scale = Axis(low, high, 0, 1)
    step = scale.ticks(wanted)[1] - scale.ticks(wanted)[0]
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class Marks:
    """Points of one kind in a scatter plot."""

    name: str
    shape: str  # dot, star, square, diamond
    tone: str  # a class of the style sheet
    points: Sequence[Point] = field(default_factory=tuple)


def cloud(points: Sequence[Point], tone: str, size: float = 4.0) -> Markup:
    """Many points as one path: a dot is a line of no length with round ends."""
    return tag("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), class_=f"cloud {tone}", stroke_width=size)


def mark(shape: str, x: float, y: float, tone: str, size: float = 6.5) -> Markup:
    """A single point that must be seen: shapes tell apart what colours may not."""
    if shape == "dot":
        return tag("circle", cx=x, cy=y, r=size * 0.7, class_=f"mark {tone}")
    if shape == "star":
        corners = [(size * (1.35 if i % 2 == 0 else 0.55), math.pi * i / 5 - math.pi / 2) for i in range(10)]
    else:
        turn = math.pi / 4 if shape == "square" else 0.0
        corners = [(size * 1.1, turn + math.pi * i / 2) for i in range(4)]
    points = " ".join(f"{x + r * math.cos(a):.1f},{y + r * math.sin(a):.1f}" for r, a in corners)
    return tag("polygon", points=points, class_=f"mark {tone}")


def scatter(
    marks: Sequence[Marks], line: tuple[float, float, float] | None, limits: tuple[Point, Point], title: str, text: str
) -> Markup:
    """Points in a plane, and the line a·x + b·y + c = 0 with its base side shaded."""
    x, y = _axes(*limits, height=300)
    content = [frame(x, y, ("along u, the axis of the class means", "along the rest of the normal"))]
    if line:
        content += _halves(line, limits, x, y)
    for one in marks:
        placed = [(x(a), y(b)) for a, b in one.points]
        content += (
            [cloud(placed, one.tone)] if one.shape == "cloud" else [mark(one.shape, *p, one.tone) for p in placed]
        )
    return drawing(content, title, text, height=300)


def _halves(line: tuple[float, float, float], limits: tuple[Point, Point], x: Axis, y: Axis) -> list[Markup]:
    """The base side of the boundary, and the boundary itself, cut to the plot."""
    (left, right), (low, high) = limits
    corners = [(left, low), (right, low), (right, high), (left, high)]
    side = [line[0] * a + line[1] * b + line[2] for a, b in corners]
    inside, crossings = [], []
    for i, (corner, value) in enumerate(zip(corners, side, strict=True)):
        other, beyond = corners[(i + 1) % 4], side[(i + 1) % 4]
        if value >= 0:
            inside.append(corner)
        if (value >= 0) != (beyond >= 0):
            share = value / (value - beyond)
            crossing = tuple(a + share * (b - a) for a, b in zip(corner, other, strict=True))
            inside.append(crossing)  # type: ignore[arg-type]
            crossings.append(crossing)
    found = []
    if inside:
        found.append(tag("polygon", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in inside), class_="half"))
    if len(crossings) == 2:
        (a, b), (c, d) = crossings
        found.append(tag("line", x1=x(a), y1=y(b), x2=x(c), y2=y(d), class_="boundary"))
    return found


@dataclass(frozen=True)
class Line:
    """A curve of steps, named at its end."""

    name: str
    tone: str  # a class of the style sheet
    points: Sequence[Point]


def curves(lines: Sequence[Line], marker: Tick, x_ticks: Sequence[Tick], labels: tuple[str, str], title: str) -> Markup:
    """Curves that fall from 100 % to 0, and a vertical line at one place. Their names stand in a key below."""
    most = max([point[0] for line in lines for point in line.points] + [marker[0]])
    x, y = _axes((0, most * 1.02), (0, 100), height=300)
    content = [frame(x, y, labels, x_ticks)]
    content += [
        tag("line", x1=x(marker[0]), x2=x(marker[0]), y1=y.start, y2=y.end, class_="boundary"),
        tag("text", marker[1], x=x(marker[0]) + 5, y=y.start - 8, class_="label"),
    ]
    for number, line in enumerate(lines):
        steps = "".join(f"H{x(a):.1f}V{y(b):.1f}" for a, b in line.points)
        first = line.points[0]
        content.append(tag("path", d=f"M{x(first[0]):.1f} {y(first[1]):.1f}{steps}", class_=f"curve {line.tone}"))
        row = 320 + 16 * number
        content.append(tag("line", x1=LEFT, x2=LEFT + 22, y1=row - 4, y2=row - 4, class_=f"curve {line.tone}"))
        content.append(tag("text", line.name, x=LEFT + 30, y=row, class_="label"))
    said = [f"{line.name} from {line.points[0][1]:.1f} % down to {line.points[-1][1]:.1f} %" for line in lines]
    return drawing(content, title, "; ".join(said) + ".", height=320 + 16 * len(lines))


@dataclass(frozen=True)
class Look:
    """What tells a curve from others: its colour, and what is seen without colours."""

    name: str
    tone: str  # a class of the style sheet
    shape: str  # of its marks
    dash: str = ""  # a class of the style sheet

    @property
    def curve(self) -> str:
        """The classes of its line."""
        return f"curve {self.tone} {self.dash}".strip()

    def mark(self, x: float, y: float) -> Markup:
        """One of its points."""
        return mark(self.shape, x, y, self.tone, 4.5)


@dataclass(frozen=True)
class Rates:
    """A curve of rates in %, each with its interval: (x, rate, low, high)."""

    look: Look
    points: Sequence[tuple[float, float, float, float]]


def rates(lines: Sequence[Rates], x_ticks: Sequence[Tick], x_label: str, title: str) -> Markup:
    """Curves of rates with their intervals; their names stand in a key below."""
    places = [place for place, _ in x_ticks]
    x, y = _axes(padded(places, 0.05), (0, 100), height=300)
    content = [frame(x, y, (x_label, "share of the targets, %"), _spaced(x, x_ticks))]
    shift = [(number - (len(lines) - 1) / 2) * 2.5 for number in range(len(lines))]  # intervals must not hide another
    for number, line in enumerate(lines):
        placed = [(x(a) + shift[number], y(rate), y(low), y(high)) for a, rate, low, high in line.points]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b, _, _ in placed)
        whiskers = "".join(f"M{a:.1f} {low:.1f}V{high:.1f}" for a, _, low, high in placed)
        content.append(tag("path", d=whiskers, class_=f"curve whisker {line.look.tone}"))
        content.append(tag("path", d=f"M{path}", class_=line.look.curve))
        content += [line.look.mark(a, b) for a, b, _, _ in placed]
        content += key(line.look, 320 + 16 * number)
    said = [f"{line.look.name}: " + ", ".join(f"{rate:.0f} %" for _, rate, _, _ in line.points) for line in lines]
    along = ", ".join(label for _, label in x_ticks)
    return drawing(content, title, f"At {x_label} {along}. {'; '.join(said)}.", height=320 + 16 * len(lines))


def key(look: Look, y: float) -> list[Markup]:
    """A row of the key below a chart: how a curve looks, and its name."""
    return [
        tag("line", x1=LEFT, x2=LEFT + 22, y1=y - 4, y2=y - 4, class_=look.curve),
        look.mark(LEFT + 11, y - 4),
        tag("text", look.name, x=LEFT + 30, y=y, class_="label"),
    ]


def spread(points: Sequence[tuple[float, float, float, float]], labels: tuple[str, str], title: str) -> Markup:
    """A curve of medians, the room between the quartiles shaded: (x, median, lower, upper), none below 0."""
    x = Axis(*padded([at for at, *_ in points], 0.04), LEFT, WIDTH - RIGHT)
    y = Axis(0, 1.06 * max(upper for *_, upper in points) or 1, HEIGHT - BOTTOM, TOP)
    ticks = _spaced(x, [(at, f"{at:g}") for at, *_ in points])
    edge = [(at, upper) for at, _, _, upper in points] + [(at, lower) for at, _, lower, _ in reversed(points)]
    curve = "L".join(f"{x(at):.1f} {y(middle):.1f}" for at, middle, _, _ in points)
    content = [
        frame(x, y, labels, ticks),
        tag("polygon", points=" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in edge), class_="band poison"),
        tag("path", d=f"M{curve}", class_="curve poison"),
        *(mark("diamond", x(at), y(middle), "poison", 4.5) for at, middle, _, _ in points),
    ]
    said = [f"{at:g}: {middle:.3g}, quartiles {lower:.3g} and {upper:.3g}" for at, middle, lower, upper in points]
    return drawing(content, title, f"{labels[1]} by {labels[0]}, medians. {'; '.join(said)}.")


def _spaced(x: Axis, ticks: Sequence[Tick], room: float = 26) -> list[Tick]:
    """Those ticks whose labels do not touch the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or x(tick[0]) - x(kept[-1][0]) >= room:
            kept.append(tick)
    return kept
