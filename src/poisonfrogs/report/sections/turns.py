"""How far training on the poisons turns the network: its boundary, and every layer, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from poisonfrogs.report import layers
from poisonfrogs.report.figures import Figure, Look, Table, spread
from poisonfrogs.report.folder import Outcome, RunFolder
from poisonfrogs.report.html import Section, render
from poisonfrogs.report.layers import Series

VICTIMS = {  # as the journal names them, and as the page does
    "poisoned": Look("poisons", "poison", "diamond"),
    "watermark_only": Look("watermarked bases alone", "base", "square", "dashed"),
    "control": Look("clean control", "good", "dot", "dotted"),
}
Spread = tuple[int, float, float, float, int]  # (epoch, median, lower quartile, upper quartile, of how many)


@dataclass(frozen=True)
class Further:
    """How many layers turn further with the poisons than without, and of which it is most true."""

    count: int
    of: int
    layer: str
    poisoned: float  # degrees
    control: float


def section(run: RunFolder) -> Section | None:
    """None where no trial was followed epoch by epoch: where a head alone is trained, and in older runs."""
    boundary = by_epoch([one.boundary_rotation for one in run.outcomes if one.boundary_rotation])
    victims = series(run.outcomes)
    if not boundary and not victims:
        return None
    body = render(
        "turns.html",
        figures=[_boundary(boundary)] if boundary else [],
        layers=[draw(list(victims.values())) for draw in (_last, _lines) if victims],
        last=boundary[-1] if boundary else None,
        further=further(victims),
    )
    return Section("turns", "How far the network turns", body)


def by_epoch(trials: Sequence[Sequence[float]]) -> list[Spread]:
    """Median and quartiles over the trials, an epoch a row; a trial that broke off has no later ones."""
    found = []
    for epoch in range(1, max(map(len, trials), default=0) + 1):
        held = [trial[epoch - 1] for trial in trials if len(trial) >= epoch]
        lower, middle, upper = (float(value) for value in np.percentile(held, (25, 50, 75)))
        found.append((epoch, middle, lower, upper, len(held)))
    return found


def series(outcomes: Sequence[Outcome]) -> dict[str, Series]:
    """The medians of each kind of victim that was followed, of the layers that all of them have."""
    followed = [one.layer_rotation for one in outcomes if one.layer_rotation]
    held = {kind: [one[kind] for one in followed if one.get(kind) and all(one[kind].values())] for kind in VICTIMS}
    networks = [network for trials in held.values() for network in trials]
    names = [name for name in networks[0] if all(name in one for one in networks)] if networks else []
    return {
        kind: Series(VICTIMS[kind], {name: _medians([network[name] for network in trials]) for name in names})
        for kind, trials in held.items()
        if trials and names
    }


def _medians(trials: Sequence[Sequence[float]]) -> list[float]:
    return [middle for _, middle, *_ in by_epoch(trials)]


def further(victims: Mapping[str, Series]) -> Further | None:
    """Which layers turn further with the poisons than without, by the medians after the last epoch."""
    if not {"poisoned", "control"} <= set(victims):
        return None
    poisoned, control = (
        {name: way[-1] for name, way in victims[kind].layers.items()} for kind in ("poisoned", "control")
    )
    most = max(poisoned, key=lambda name: poisoned[name] - control[name])
    count = sum(poisoned[name] > control[name] for name in poisoned)
    return Further(count, len(poisoned), layers.short(most), poisoned[most], control[most])


def _boundary(found: Sequence[Spread]) -> Figure:
    title = "The boundary, against the control's"
    rows = [[str(epoch), *(f"{value:.3f}" for value in values), str(of)] for epoch, *values, of in found]
    return Figure(
        spread([row[:4] for row in found], ("epochs of training", "degrees"), title),
        title,
        "The angle between the boundary of base class against target's class that was trained on the poisons and the "
        "control's, after as many epochs. The median of all trials; the band holds the middle half of them.",
        Table(["epoch", "median", "lower quartile", "upper quartile", "trials"], rows),
    )


def _last(victims: Sequence[Series]) -> Figure:
    title = "Every layer, after the last epoch"
    names = list(victims[0].layers)
    return Figure(
        layers.last(victims, "degrees", title),
        title,
        "The angle between a layer's weights and those that training started from, the median of all trials; the first "
        "layer on top. Mind where the axis begins.",
        Table(
            ["layer", *(one.look.name for one in victims)],
            [[name, *(f"{one.layers[name][-1]:.3f}" for one in victims)] for name in names],
        ),
    )


def _lines(victims: Sequence[Series]) -> Figure:
    title = "Every layer, epoch by epoch"
    rows = [
        [name, one.look.name, *(f"{value:.3f}" for value in one.layers[name])]
        for name in victims[0].layers
        for one in victims
    ]
    longest = max(map(len, rows))
    return Figure(
        layers.lines(victims, "degrees", title),
        title,
        "The same angles after each epoch, a small chart a layer, all on one scale.",
        Table(
            ["layer", "trained on", *(f"epoch {number}" for number in range(1, longest - 1))],
            [row + [""] * (longest - len(row)) for row in rows],
        ),
    )
