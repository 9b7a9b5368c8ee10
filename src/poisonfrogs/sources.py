"""Where files came from, as a CSV says: a row a file or a folder, the most specific one counts."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from poisonfrogs.types import InputError

FIELDS = ("source", "collected_at", "licence", "collector")
_EXPECTED = f"expected a CSV with the columns path and any of {', '.join(FIELDS)}"
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?")


@dataclass(frozen=True)
class Sources:
    """What is known about files, by the path of a file or of a folder; b"" is the whole tree."""

    rows: dict[bytes, dict[str, str]]

    def of(self, path: bytes) -> dict[str, str]:
        """What the row of the file itself says, else that of the nearest folder above it.

        >>> Sources({b"": {"source": "a"}, b"x/y": {"source": "b"}}).of(b"x/y/z.png")
        {'source': 'b'}
        """
        if not self.rows:
            return {}
        while path not in self.rows:
            if not path:
                return {}
            path = path.rpartition(b"/")[0]
        return self.rows[path]


def read(file: Path, root: bytes) -> Sources:
    """Read a sources CSV (UTF-8, with or without a byte order mark).

    Raises InputError for unknown columns, a path that is not in the tree or is there twice, for no date, and for
    what is no regular file.
    """
    found: dict[bytes, dict[str, str]] = {}
    try:
        if file.exists() and not file.is_file():  # a pipe or a device would never end
            raise InputError(f"{file} is not a file; {_EXPECTED}")
        # surrogateescape: paths need not be UTF-8
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            for where, row in _rows(file, csv.DictReader(lines, strict=True)):
                path = _path(where, row.pop("path"), root)
                if path in found:
                    raise InputError(f"{where}: {os.fsdecode(path)!r} has a row already; keep one of them")
                found[path] = _checked(where, row)
    except csv.Error as error:
        raise InputError(f"{file} is not a CSV ({error}); {_EXPECTED}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); {_EXPECTED}") from None
    return Sources(found)


def _rows(file: Path, reader: csv.DictReader[str]) -> Iterator[tuple[str, dict[str, str]]]:
    names = list(reader.fieldnames or [])
    unknown = [name for name in names if name not in ("path", *FIELDS)]
    if "path" not in names or unknown or len(set(names)) < len(names):
        raise InputError(f"{file} has the columns {', '.join(names) or 'none'}; {_EXPECTED}")
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if None in row or None in row.values():
            raise InputError(f"{where} has not {len(names)} cells; quote cells that hold commas")
        yield where, row


def _path(where: str, text: str, root: bytes) -> bytes:
    path = os.fsencode(text).rstrip(b"/")
    path = b"" if path == b"." else path.removeprefix(b"./")
    parts = path.split(b"/") if path else []
    if not text or text.startswith("/") or b"\0" in path or not {b"", b".", b".."}.isdisjoint(parts):
        raise InputError(f"{where}: {text!r} is no path inside the data; expected one relative to it, or . for all")
    through_a_link = any(map(os.path.islink, (root + b"/".join(parts[:end]) for end in range(1, len(parts)))))
    if through_a_link or not os.path.lexists(root + path):
        data = os.fsdecode(root.removesuffix(b"/"))
        raise InputError(f"{where}: {text!r} is not in {data}; correct the path, or remove the line")
    return path


def _checked(where: str, row: dict[str, str]) -> dict[str, str]:
    for name, value in row.items():
        if any("\udc80" <= char <= "\udcff" for char in value):
            raise InputError(f"{where}: {name} is not UTF-8; save the file as UTF-8")
    date = row.get("collected_at")
    if date and not _is_date(date):
        raise InputError(f"{where}: collected_at {date!r} is no date; expected such as 2024-05-31 or 2024-05-31T12:00Z")
    return {name: row[name] for name in FIELDS if row.get(name)}


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False
