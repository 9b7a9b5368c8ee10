"""The feature space in the paper's projection, before and after training on the poison."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from poisonfrogs.report.figures import Figure, Marks, Table, padded, scatter
from poisonfrogs.report.folder import Outcome, RunFolder, first_to_last
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
    body = render("space.html", panels=panels(run), own_code=run.plan["audit"].get("victim"), trials=len(run.outcomes))
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
    if "normal" not in held or "control_normal" not in held:
        return None
    place = [one.trial_id for one in run.outcomes if one.group == outcome.group].index(outcome.trial_id)
    row = {name: tensor[place] for name, tensor in held.items()}
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


def _marks(outcome: Outcome, row: dict[str, np.ndarray], seen: Plane, clouds: list[np.ndarray]) -> list[Marks]:
    target, base = (seen(rows) if len(rows) else [] for rows in clouds)
    return [
        Marks(outcome.target_class, "cloud", "target", target),
        Marks(outcome.base_class, "cloud", "base", base),
        Marks("base", "square", "base", seen(row["base"])),
        Marks("poison", "diamond", "poison", seen(row["poison"])),
        Marks("target", "star", "target", seen(row["target"])),
    ]


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
