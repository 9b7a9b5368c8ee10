"""Words and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    r"""One line that any terminal or page can show, and that cannot command it.

    >>> printable("val/a\nb\x1b[2J\udcff é")
    'val/a\\nb\\x1b[2J\\udcff é'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def number(text: str) -> float:
    """A number, which may be written as a fraction.

    >>> number("8/255") == 8 / 255
    True
    """
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is no number; expected such as 8/255 or 0.03") from None


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun.

    >>> counted(1, "target"), counted(0, "target"), counted(2, "class", "classes")
    ('1 target', '0 targets', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def written(value: Any) -> str:
    """An option's value as people write it.

    >>> written(8 / 255), written(0.3), written(None), written(["dog", "fish"]), written(True)
    ('8/255', '0.3', 'none', 'dog, fish', 'true')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and 0 < value < 1 and value != round(value, 4) and levels(value) == _exact(value):
        return levels(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _exact(value: float) -> str:
    return f"{255 * value:.9g}/255"


def percent(rate: float | None) -> str:
    """A rate as people read it.

    >>> percent(1.0), percent(0.806389), percent(None)
    ('100 %', '80.6 %', 'none')
    """
    if rate is None:
        return "none"
    return f"{100 * rate:.0f} %" if rate in (0, 1) else f"{100 * rate:.1f} %"


def interval(ends: list[float]) -> str:
    """A 95 % interval as people read it.

    >>> interval([0.8064, 1.0])
    '95 % interval 80.6 % to 100 %'
    """
    return f"95 % interval {percent(ends[0])} to {percent(ends[1])}"


def points(change: float) -> str:
    """A change of a rate, in percentage points.

    >>> points(-0.01), points(0.00102), points(-1e-9)
    ('-1.00', '+0.10', '+0.00')
    """
    return f"{round(100 * change, 2) + 0.0:+.2f}"


def levels(change: float) -> str:
    """A change of pixels in [0, 1], in levels of 8 bits.

    >>> levels(8 / 255), levels(0.05)
    ('8/255', '12.8/255')
    """
    return f"{round(255 * change, 1):g}/255"


def head_name(certificate: Mapping[str, Any]) -> str:
    """A certified head by its family and its parameters, switches only where they are on.

    >>> head_name({"family": "partitions", "parameters": {"n_partitions": 101, "alpha": 0.1, "run_off": False}})
    'partitions n_partitions=101 alpha=0.1'
    """
    held = {name: value for name, value in certificate["parameters"].items() if value}
    said = [name if value is True else f"{name}={value:g}" for name, value in held.items()]
    return " ".join([certificate["family"], *said])
