"""Charts with a row for each layer of a network, which stand side by side: the layers in forward order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from poisonfrogs.report.figures import RIGHT, WIDTH, Axis, Look, drawing, key, padded
from poisonfrogs.report.html import clipped, tag

NAMES = 140  # pixels for the layers' names
ROW = 34  # pixels of a layer


@dataclass(frozen=True)
class Series:
    """A value an epoch for each layer, none below 0."""

    look: Look
    layers: Mapping[str, Sequence[float]]


def short(layer: str) -> str:
    """A layer's name, from that of its parameter.

    >>> short("body.conv1.weight")
    'conv1'
    """
    return layer.removeprefix("body.").removesuffix(".weight")


def last(series: Sequence[Series], unit: str, title: str) -> Markup:
    """Where each series ends in each layer: its marks on one scale, each series on a line of its own."""
    layers = list(series[0].layers)
    low, high = padded([one.layers[layer][-1] for one in series for layer in layers])
    x = Axis(max(low, 0), high, NAMES, WIDTH - 2 * RIGHT)
    content = [tag("line", x1=x(v), x2=x(v), y1=4, y2=ROW * len(layers), class_="grid") for v in x.ticks()]
    content += _names(layers)
    for row, layer in enumerate(layers):
        for place, one in enumerate(series):
            y = ROW * row + ROW * (place + 1) / (len(series) + 1)
            content.append(one.look.mark(x(one.layers[layer][-1]), y))
    content += [tag("text", f"{v:g}", x=x(v), y=ROW * len(layers) + 16, class_="tick middle") for v in x.ticks()]
    said = [
        f"{short(layer)}: " + ", ".join(f"{one.look.name} {one.layers[layer][-1]:.3g}" for one in series)
        for layer in layers
    ]
    return _finished(content, series, (unit, (x.start + x.end) / 2), title, "; ".join(said))


def lines(series: Sequence[Series], unit: str, title: str) -> Markup:
    """A small chart a layer, all on one scale: each series from the first epoch to the last."""
    layers = list(series[0].layers)
    epochs = max(len(values) for one in series for values in one.layers.values())
    top = 1.06 * max(value for one in series for values in one.layers.values() for value in values) or 1.0
    x = Axis(1, max(epochs, 2), NAMES + 8, WIDTH - 2 * RIGHT - 8)
    content = _names(layers)
    for row, layer in enumerate(layers):
        y = Axis(0, top, ROW * row + ROW - 3, ROW * row + 5)
        content.append(
            tag("rect", x=NAMES, y=y.end - 2, width=WIDTH - 2 * RIGHT - NAMES, height=ROW - 4, class_="hole")
        )
        for one in series:
            curve = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in enumerate(one.layers[layer], 1))
            content.append(tag("path", d=f"M{curve}", class_=one.look.curve))
    ticks = [at for at in x.ticks(whole=True) if 1 <= at <= epochs]
    content += [tag("text", f"{at:g}", x=x(at), y=ROW * len(layers) + 16, class_="tick middle") for at in ticks]
    said = f"Each small chart goes from 0 to {top:.3g} {unit} and from epoch 1 to {epochs}"
    return _finished(content, series, ("epochs of training", (x.start + x.end) / 2), title, said)


def _names(layers: Sequence[str]) -> list[Markup]:
    return [
        tag("text", clipped(short(layer), 20), x=NAMES - 8, y=ROW * row + ROW / 2 + 4, class_="label end")
        for row, layer in enumerate(layers)
    ]


def _finished(
    content: Sequence[Markup], series: Sequence[Series], label: tuple[str, float], title: str, said: str
) -> Markup:
    """With the name of the axis and the key below."""
    bottom = ROW * len(series[0].layers) + 34
    below = [tag("text", label[0], x=label[1], y=bottom, class_="label middle")]
    for number, one in enumerate(series, 1):
        below += key(one.look, bottom + 8 + 16 * number)
    return drawing([*content, *below], title, f"{said}.", height=bottom + 16 + 16 * len(series))
