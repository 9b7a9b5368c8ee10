"""The feature space in the paper's projection, before and after training on the poison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from poisonfrogs.report.figures import Figure, Marks, Table, padded, scatter
from poisonfrogs.report.folder import Outcome, RunFolder, first_to_last, retrained
from poisonfrogs.report.html import Section, render
from poisonfrogs.report.projection import Plane, plane

POINTS = 150  # clean pictures of a class in a panel


@dataclass(frozen=True)
class Panel:
    """One chosen kill."""

    outcome: Outcome
    why: str
    before: Figure
    after: Figure


def section(run: RunFolder) -> Section:
    """The fourth section."""
    audit = run.plan["audit"]
    body = render(
        "space.html",
        panels=panels(run),
        own_code=audit.get("victim"),
        trials=len(run.outcomes),
        retrained=retrained(run),
    )
    return Section("space", "The feature space", body)


def panels(run: RunFolder) -> list[Panel]:
    """A panel a chosen kill; none where the run has no features, or no linear boundary."""
    clean = run.tensors("clean")
    return [panel for why, one in _chosen(run) if (panel := _panel(run, one, why, clean))] if clean else []


def _chosen(run: RunFolder) -> list[tuple[str, Outcome]]:
    """The surest, the middle and the weakest kill, and the nearest miss."""
    ordered = first_to_last(run.outcomes)
    fell = [one for one in ordered if one.state == "fell"]
    stood = [one for one in ordered if one.state == "stood"]
    found: dict[int, tuple[str, Outcome]] = {}
    for why, some in (
        ("the surest kill", fell[:1]),
        ("the weakest kill", fell[-1:]),
        ("the middle kill", fell[len(fell) // 2 :][:1]),
        ("the nearest miss", stood[:1]),
    ):
        for one in some:
            found.setdefault(one.trial_id, (why, one))
    return sorted(found.values(), key=lambda pair: ordered.index(pair[1]))


def _panel(run: RunFolder, outcome: Outcome, why: str, clean: dict[str, np.ndarray]) -> Panel | None:
    held = run.tensors(f"{outcome.group:06d}")
    place = [one.trial_id for one in run.outcomes if one.group == outcome.group].index(outcome.trial_id)
    row = {name: tensor[place] for name, tensor in held.items()}
    if "victim_normal" in row and "weight" in clean:
        return _two_networks(row, outcome, why, clean)
    if "normal" not in row or "control_normal" not in row:
        return None
    means = clean["means"][outcome.base], clean["means"][outcome.target]
    planes = [plane(*means, row[f"{kind}normal"], float(row[f"{kind}offset"])) for kind in ("control_", "")]
    clouds = [clean["sample"][clean["labels"] == number][:POINTS] for number in (outcome.target, outcome.base)]
    shown = [_marks(outcome, row, one, clouds) for one in planes]
    across = padded([x for marks in shown for one in marks for x, _ in one.points])
    figures = [
        _figure(outcome, marks, one, across, when)
        for marks, one, when in zip(shown, planes, ("without the poison", "with the poison"), strict=True)
    ]
    return Panel(outcome, why, *figures)


def _two_networks(held: dict[str, np.ndarray], outcome: Outcome, why: str, clean: dict[str, np.ndarray]) -> Panel:
    """The clean network beside the victim, each in its own feature space, where every layer is trained."""
    victim = {name.removeprefix("victim_"): value for name, value in held.items() if name.startswith("victim_")}
    pair = [outcome.base, outcome.target]
    (normal, *_), (offset, *_) = (-np.diff(clean[name][pair], axis=0) for name in ("weight", "bias"))
    first = {**held, "normal": normal, "offset": offset, "means": clean["means"][pair]}
    figures = []
    spaces = (first, clean, "none of it: the clean network"), (victim, victim, "the poisons: the victim")
    for row, sampled, when in spaces:
        seen = plane(row["means"][0], row["means"][1], row["normal"], float(row["offset"]))
        clouds = [sampled["sample"][sampled["labels"] == number][:POINTS] for number in reversed(pair)]
        marks = _marks(outcome, row, seen, clouds)
        across = padded([x for one in marks for x, _ in one.points])
        figures.append(_figure(outcome, marks, seen, across, f"on {when}"))
    return Panel(outcome, why, *figures)


def _marks(outcome: Outcome, row: dict[str, np.ndarray], seen: Plane, clouds: list[np.ndarray]) -> list[Marks]:
    """The base is left out where the row has none: a victim of its own features is not asked about it."""
    target, base = (seen(rows) if len(rows) else [] for rows in clouds)
    found = [
        Marks(outcome.target_class, "cloud", "target", target),
        Marks(outcome.base_class, "cloud", "base", base),
        Marks("base", "square", "base", seen(row["base"]) if "base" in row else []),
        Marks("poison", "diamond", "poison", seen(row["poison"])),
        Marks("target", "star", "target", seen(row["target"])),
    ]
    return [one for one in found if one.points]


def _figure(outcome: Outcome, marks: list[Marks], seen: Plane, across: tuple[float, float], when: str) -> Figure:
    limits = across, padded([y for one in marks for _, y in one.points])
    ((x, y),) = marks[-1].points
    a, b, c = seen.line
    side = outcome.base_class if a * x + b * y + c > 0 else outcome.target_class
    text = f"The target lies on the side of {side}; the base class's side is shaded."
    rows = [
        [one.name, f"{x:.3f}", f"{y:.3f}", outcome.base_class if a * x + b * y + c > 0 else outcome.target_class]
        for one in marks
        if one.shape != "cloud"
        for x, y in one.points
    ]
    title = f"Trained {when}"
    table = Table(["point", "along u", "along the rest of the normal", "side"], rows)
    return Figure(scatter(marks, seen.line, limits, f"{title}, trial {outcome.trial_id}", text), title, text, table)
