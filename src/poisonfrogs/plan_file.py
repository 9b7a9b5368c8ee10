"""A plan file: TOML whose keys are the options of an audit, in which a list is an axis."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from poisonfrogs.plan import Audit
from poisonfrogs.text import number
from poisonfrogs.types import InputError

PAIR = "class_pair"  # [target class, base class]: the two options that go together


def read(path: Path) -> dict[str, list[Any]]:
    """Key -> its values, one or several, in the file's order. Raises InputError with all that is wrong."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"--plan {path} is no regular file; expected a TOML file")
    try:
        held = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--plan {path} cannot be read ({error}); expected a TOML file") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"--plan {path} is no TOML ({error})") from None
    _no_unknown(path, held)
    hints = {**get_type_hints(Audit), PAIR: tuple[str, str]}
    found: dict[str, list[Any]] = {}
    complaints = list[str]()
    for key, value in held.items():
        try:
            found[key] = _values(hints[key], value)
        except ValueError as error:
            complaints.append(f"{key}: {error}")
    if complaints:
        raise InputError(f"{path}: " + "; ".join(complaints))
    return found


def options_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a value for each axis stands for."""
    options = dict(point)
    if PAIR in options:
        options["target_class"], options["base_class"] = options.pop(PAIR)
    return options


def _no_unknown(path: Path, held: Mapping[str, Any]) -> None:
    known = [*(field.name for field in fields(Audit)), PAIR]
    unknown = []
    for key in held:
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.7)
            unknown.append(f"{key!r} (nearest: {near[0]})" if near else f"{key!r}")
    if unknown:
        raise InputError(f"{path} has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}")
    if PAIR in held and {"target_class", "base_class"} & set(held):
        raise InputError(f"{path} gives {PAIR} beside target_class or base_class; give one or the other")


def _values(hint: Any, value: Any) -> list[Any]:
    """The values of one key: one, or those of its list. Raises ValueError."""
    whole = get_origin(hint) is tuple
    if isinstance(value, list) and not (whole and all(isinstance(one, str) for one in value)):
        if not value:
            raise ValueError("an empty list; expected at least one value")
        found = [_value(hint, one) for one in value]
        if len({str(one) for one in found}) < len(found):
            raise ValueError("a value stands there twice")
        return found
    return [_value(hint, value)]


def _value(hint: Any, value: Any) -> Any:
    """As the option has it; a number may be a string such as "8/255", and none is "none"."""
    if value == "":
        raise ValueError("it is empty; expected a value")
    kinds = _kinds(hint)
    if type(None) in kinds and str(value).lower() == "none":
        return None
    for kind in kinds:
        if get_origin(kind) is Literal and value in get_args(kind) and type(value) is str:
            return value
        if get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
            if kind != tuple[str, str] or len(value) == 2:
                return tuple(value)
        elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            return number(str(value))
        elif kind is Path and isinstance(value, str):
            return Path(value)
        elif kind in (bool, int, str) and type(value) is kind:
            return value
    raise ValueError(f"{value!r} is no value for it; expected {_expected(kinds)}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of an option's values. Only a number can be given as none: a class or a file may be called so."""
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    return kinds if {int, float} & set(kinds) else tuple(kind for kind in kinds if kind is not type(None))


def _expected(kinds: Sequence[Any]) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path as a string",
    }
    said = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            said += [repr(one) for one in get_args(kind)]
        elif get_origin(kind) is tuple:
            said.append('["TARGET CLASS", "BASE CLASS"]' if kind == tuple[str, str] else "a list of strings")
        else:
            said.append('"none"' if kind is type(None) else names[kind])
    return " or ".join(said)
