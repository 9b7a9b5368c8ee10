"""A grid of audits: success against one option, a curve for each value of another, and the way to every cell."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from poisonfrogs.report.figures import Figure, Look, Rates, Table, rates
from poisonfrogs.report.folder import GridFolder
from poisonfrogs.report.html import Section, render
from poisonfrogs.text import percent, written

Point = dict[str, Any]
POOLED = "seed"  # the trials of all seeds are one point
TRAINED, FITTED = "clean_epochs", "training_loss"  # what varies the clean network's fit, and what measures it
LEAST = 1e-6  # losses below are drawn there
CONTROL = Look("control", "plain", "dot", "dotted")
KINDS = (  # (rate, interval, name, dash of the curve)
    ("success_rate", "ci95", "", ""),
    ("watermark_only_rate", "watermark_only_ci95", "watermark only", "dashed"),
    ("control_rate", "control_ci95", "control", CONTROL.dash),
)
LOOKS = (("base", "dot"), ("target", "square"), ("poison", "diamond"), ("good", "star"))


def result(run: GridFolder) -> Section:
    """The lowest and the highest point, and what they do not mean."""
    measured = [point for point in run.points if point["success_rate"] is not None]
    ordered = sorted(measured, key=lambda point: float(point["success_rate"]))
    body = render(
        "points.html",
        run=run,
        n=run.found["n"],
        lowest=ordered[0] if ordered else None,
        highest=ordered[-1] if ordered else None,
        where=lambda point: _where(run, point),
        done=sum(cell["finished"] for cell in run.found["cells"]),
        checks=sorted({name for cell in run.found["cells"] for name in cell.get("checks", ())}),
    )
    return Section("result", "The result", body)


def curves(run: GridFolder) -> Section | None:
    """A figure for each combination of the axes beyond the second; None without an axis."""
    axes = _axes(run)
    if not axes or not run.points:
        return None
    x, *rest = axes
    second, further = rest[:1], rest[1:]
    figures = [
        _figure(run, x, second, dict(zip(further, values, strict=True)))
        for values in itertools.product(*(run.found["axes"][axis] for axis in further))
    ]
    body = render("curves.html", figures=[one for one in figures if one], x=_words(x))
    return Section("curves", "The curves", body)


def fit(run: GridFolder) -> Section | None:
    """Success against how well the clean network has fitted its pictures; None where nothing varies that."""
    points = [point | point["clean_network"] for point in run.points if point["clean_network"]]
    if TRAINED not in run.found["axes"] or not points:
        return None
    others = [axis for axis in _axes(run) if axis != TRAINED]
    places = {str(point[FITTED]): math.log10(max(point[FITTED], LEAST)) for point in points}
    lines = []
    for number, values in enumerate(itertools.product(*(run.found["axes"][axis] for axis in others))):
        mine = [point for point in points if [point[axis] for axis in others] == list(values)]
        said = zip(map(_words, others), map(written, values), strict=True)
        name = ", ".join(f"{axis} {value}" for axis, value in said) or "success"
        lines += _lines(mine, FITTED, places, name, LOOKS[number % len(LOOKS)])
    decades = range(math.floor(min(places.values())), math.ceil(max(places.values())) + 1)
    title = "Success against the clean network's training loss"
    caption = (
        "Each point is a clean network of another fit, and the victims that started from it; the scale of the loss is "
        "logarithmic. Dashed: with the watermarked pictures alone. Dotted: targets that were wrong without any poison."
    )
    figure = Figure(
        rates(_one_control(lines), [(at, f"{10.0**at:g}") for at in decades], _words(FITTED), title),
        title,
        caption,
        _table(points, [TRAINED, *others, FITTED, "test_accuracy"]),
    )
    return Section("fit", "How well the clean network has fitted", render("fit.html", figure=figure))


def _axes(run: GridFolder) -> list[str]:
    """The axis that is drawn along, first: of those with numbers the one with most values; then the others."""
    axes = [axis for axis in run.found["axes"] if axis != POOLED]
    numbers = [axis for axis in axes if all(map(_is_number, run.found["axes"][axis]))]
    x = max(numbers or axes, key=lambda axis: len(run.found["axes"][axis]), default=None)
    return [x, *(axis for axis in axes if axis != x)] if x else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(run: GridFolder, x: str, second: Sequence[str], at: Point) -> Figure | None:
    points = [point for point in run.points if all(point[axis] == value for axis, value in at.items())]
    if not points:
        return None
    values = run.found["axes"][x]
    places = {
        str(value): float(value) if _is_number(value) and all(map(_is_number, values)) else float(number)
        for number, value in enumerate(values)
    }
    lines = []
    for number, value in enumerate(run.found["axes"][second[0]] if second else [None]):
        mine = [point for point in points if not second or point[second[0]] == value]
        name = f"{_words(second[0])} {written(value)}" if second else "success"
        lines += _lines(mine, x, places, name, LOOKS[number % len(LOOKS)])
    lines = _one_control(lines)
    title = "Success" + (f" at {', '.join(f'{_words(axis)} {written(one)}' for axis, one in at.items())}" if at else "")
    ticks = sorted((place, written(value)) for value, place in zip(values, places.values(), strict=True))
    caption = (
        "Share of the eligible targets that became what the attacker wanted, with its 95 % interval (Wilson). "
        "Dashed: with the watermarked pictures alone, not crafted. Dotted: targets that were wrong without any poison."
    )
    return Figure(rates(lines, ticks, _words(x), title), title, caption, _table(points, [x, *second]))


def _one_control(lines: Sequence[Rates]) -> list[Rates]:
    """Where the control is the same for all curves, it is drawn once."""
    controls = [line for line in lines if line.look.dash == CONTROL.dash]
    if len(controls) < 2 or any(line.points != controls[0].points for line in controls):
        return list(lines)
    return [*(line for line in lines if line not in controls), Rates(CONTROL, controls[0].points)]


def _lines(points: Sequence[Point], x: str, places: dict[str, float], name: str, look: tuple[str, str]) -> list[Rates]:
    found = []
    for rate, interval, kind, dash in KINDS:
        placed = [
            (places[str(one[x])], 100 * one[rate], 100 * one[interval][0], 100 * one[interval][1])
            for one in points
            if one[rate] is not None
        ]
        if placed:
            found.append(Rates(Look(", ".join(filter(None, (name, kind))), *look, dash), sorted(placed)))
    return found


_HEAD = ["eligible", "fell", "rate", "95 % interval", "watermark only", "control"]


def _table(points: Sequence[Point], axes: Sequence[str]) -> Table:
    head = [
        *map(_words, axes),
        "n",
        "targets",
        "eligible",
        "fell",
        "rate",
        "95 % interval",
        "watermark only",
        "control",
    ]
    rows = []
    for point in points:
        trials, *figures = _figures(point)
        rows.append([*(written(point[axis]) for axis in axes), trials, str(point["n_targets"]), *figures])
    return Table(head, rows)


def _figures(point: Point) -> list[str]:
    ends = " to ".join(percent(end) for end in point["ci95"])
    counts = [str(point[key]) for key in ("n_trials", "n_eligible", "n_success")]
    return [*counts, percent(point["success_rate"]), ends, percent(point["watermark_only_rate"]),
            percent(point["control_rate"])]  # fmt: skip


def cells(run: GridFolder) -> Section:
    """Every cell, with the way to its own page."""
    axes = list(run.found["axes"])
    rows = [
        {
            "folder": cell["folder"] if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", cell["folder"]) else None,
            "values": [written(cell[axis]) for axis in axes],
            "figures": _figures(cell) if cell["finished"] else None,
        }
        for cell in run.found["cells"]
    ]
    head = [*map(_words, axes), "n", *_HEAD]
    return Section("cells", "The cells", render("cells.html", head=head, rows=rows, axes=len(axes)))


def reproduce(run: GridFolder) -> Section:
    """The plan, versions, hardware, hashes."""
    held = {key: value for key, value in run.plan["grid"].items() if key != "axes"}
    fixed = {_words(key): written(value) for key, value in held.items() if value not in (None, [], "")}
    varied = {_words(axis): [written(value) for value in values] for axis, values in run.found["axes"].items()}
    body = render(
        "planned.html",
        fixed=fixed,
        varied=varied,
        versions=run.found["versions"],
        hardware=run.found["hardware"],
        hashes={name: run.digest(name) for name in ("plan.json", "grid.json")},
    )
    return Section("reproduce", "How to reproduce", body)


def _where(run: GridFolder, point: Point) -> str:
    axes = [axis for axis in run.found["axes"] if axis != POOLED]
    return ", ".join(f"{_words(axis)} {written(point[axis])}" for axis in axes) or "the only point"


def _words(axis: str) -> str:
    return axis.replace("_", " ")
