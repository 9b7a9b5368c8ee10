"""Templates: everything that is printed is escaped, and shown rather than obeyed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from poisonfrogs import text


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    body: Markup


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("poisonfrogs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(text, name) for name in ("percent", "interval", "levels", "counted", "points")
    }
    return environment


def _shown(value: Any) -> Any:
    return text.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **context: Any) -> Markup:
    """A template of `templates/`, filled in."""
    return Markup(_environment().get_template(template).render(**context))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG. Attributes that are None are left out; `_` stands for `-`, `class_` for class.

    >>> print(tag("text", "a < b", x=1.25, class_="label"))
    <text x="1.25" class="label">a &lt; b</text>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(child if isinstance(child, Markup) else _text(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return text.printable(str(value))


def clipped(name: str, length: int = 18) -> str:
    """A name short enough for a drawing.

    >>> clipped("a" * 30, 8)
    'aaaaaaa…'
    """
    return name if len(name) <= length else name[: length - 1] + "…"
