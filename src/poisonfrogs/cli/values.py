"""How values are written on the command line, and what is said of those that are not."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from poisonfrogs.text import number


def number_or_none(text: str) -> float | None:
    """A number, or the word none."""
    return None if text.lower() == "none" else number(text)


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def whole_or_all(text: str) -> int | Literal["all"]:
    """A whole number, or the word all."""
    return "all" if text == "all" else whole(text)


# An option that may be left away cannot be given as None: a class or a file may be called so.
_READERS: list[tuple[Any, str, Callable[[str], Any]]] = [
    (float, "NUMBER", number),
    (float | None, "NUMBER|none", number_or_none),
    (int, "INT", whole),
    (int | None, "INT", whole),
    (int | Literal["all"], "INT|all", whole_or_all),
    (str | None, "STR", str),
    (Path | None, "PATH", Path),
]


def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tell tyro how values of these types are read and shown."""
    for kind, metavar, read in _READERS:
        if info.type == kind:
            return PrimitiveConstructorSpec(
                nargs=1,
                metavar=metavar,
                instance_from_str=lambda texts, read=read: read(texts[0]),  # type: ignore[misc]
                is_instance=lambda value: True,
                str_from_instance=lambda value: [_shown(value)],
            )
    return None


def _shown(value: Any) -> str:
    levels = value * 255 if isinstance(value, float) else 0.0
    return f"{levels:.0f}/255" if 0 < levels < 255 and abs(levels - round(levels)) < 1e-9 else str(value)


def condensed(box: str, argv: Sequence[str], names: Sequence[str]) -> str:
    """One line out of the box that the parser draws, with the names nearest to those that do not exist."""
    inside = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]]  # the first is the title
    written = itertools.dropwhile(_is_rule, inside)
    message = " ".join(itertools.takewhile(lambda line: not _is_rule(line), written))  # an explanation follows
    given = [arg.partition("=")[0].replace("_", "-") for arg in argv if arg.startswith("--")] or argv[:1]
    near = [name for one in given if one not in names for name in difflib.get_close_matches(one, names, n=2)]
    hint = f"near names: {', '.join(dict.fromkeys(near))}; " if near else ""
    message = message.rstrip(".") or "the arguments were not understood"
    return f"{message}; {hint}see poisonfrogs --help"


def _is_rule(line: str) -> bool:
    return not line.strip("-")  # or blank
