"""How values are written on the command line, and what is said of those that are not."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from poisonfrogs.plan import ByContext
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


def given(text: str) -> str:
    """A text that is not empty: a shell's variable that is not set would mean the current folder, or another audit."""
    if not text:
        raise ValueError("the value is empty; expected one (is a variable of the shell not set?)")
    return text


def path(text: str) -> Path:
    """A path that is not empty."""
    return Path(given(text))


# An option that may be left away cannot be given as None: a class or a file may be called so.
_READERS: list[tuple[Any, str, Callable[[str], Any]]] = [
    (float, "NUMBER", number),
    (float | None, "NUMBER|none", number_or_none),
    (int, "INT", whole),
    (int | None, "INT", whole),
    (int | Literal["all"], "INT|all", whole_or_all),
    (str, "STR", given),
    (str | None, "STR", given),
    (Path, "PATH", path),
    (Path | None, "PATH", path),
]


def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tell tyro how values of these types are read and shown."""
    wanted = _without_default(info.type)
    if get_origin(wanted) is Literal and wanted is not info.type:
        choices = tuple(map(str, get_args(wanted)))
        return _specified("{" + ",".join(choices) + "}", str, choices)
    for kind, metavar, read in _READERS:
        if wanted == kind:
            return _specified(metavar, read)
    return None


def _without_default(kind: Any) -> Any:
    """The type of an option whose default follows from --context, as its field has it."""
    inside = get_args(kind)
    return Union[tuple(one for one in inside if one is not ByContext)] if ByContext in inside else kind  # noqa: UP007


def _specified(
    metavar: str, read: Callable[[str], Any], choices: tuple[str, ...] | None = None
) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [_shown(value)],
        choices=choices,
    )


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
