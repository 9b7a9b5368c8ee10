"""Append-only JSON lines that survive a kill: one writer, whole groups, a torn tail cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from poisonfrogs.types import InputError

Row = dict[str, Any]


def encode(row: Row) -> bytes:
    """One line, keys in their own order, ASCII: the same row is the same bytes everywhere.

    >>> encode({"b": 1, "a": "é"})
    b'{"b": 1, "a": "\\\\u00e9"}\\n'
    """
    return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"


def read(path: Path) -> bytes:
    """All of a file of a run. Raises InputError for what is no regular file."""
    with _opened(path) as file:
        return file.read()


def rows(path: Path) -> list[Row]:
    """The whole lines of a journal; a torn last line (no newline, or not JSON) is left out."""
    if not path.exists():
        return []
    return [row for row, _ in _whole_lines(path)]


def append(path: Path, group: list[Row]) -> None:
    """Append the rows of one group and wait until they are on the disk. Raises OSError where a link is there."""
    with about(path), open(_own(path, os.O_APPEND | os.O_CREAT), "ab") as file:
        to_the_disk(file, b"".join(map(encode, group)))


def recover(path: Path, sizes: dict[int, int]) -> set[int]:
    """Cut off what a kill left unfinished and return the groups that are whole.

    `sizes` maps a group's number to the number of rows it must have. Groups are written in one
    piece, in any order, so everything after the first row of an unfinished group is cut off.
    """
    if not path.exists():
        return set()
    whole: set[int] = set()
    keep, end, pending = 0, 0, 0
    for row, end in _whole_lines(path):
        pending += 1
        if pending == sizes.get(row.get("group", -1)):
            whole.add(row["group"])
            keep, pending = end, 0
    if keep != path.stat().st_size:
        with about(path), open(_own(path), "wb") as file:  # of a descriptor: opening empties nothing
            file.truncate(keep)
            os.fsync(file.fileno())
    return whole


def put_in_order(path: Path) -> None:
    """Sort a whole journal by group, so that it is the same bytes whichever group was finished first."""
    held = rows(path)
    ordered = sorted(held, key=lambda row: int(row["group"]))
    if ordered != held:
        write_bytes(path, b"".join(map(encode, ordered)))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that it is either there whole or not at all."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode("ascii") + b"\n")


def kind_of(folder: Path) -> str | None:
    """The kind of run that a folder's plan.json names; None where it is none."""
    try:
        return str(json.loads(read(folder / "plan.json"))["kind"])
    except (InputError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def is_page(path: Path) -> bool:
    """Whether a file may be a page that `report` wrote."""
    start = b"<!doctype html>"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)).lower() == start


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with about(path):
            with created(partial) as file:
                to_the_disk(file, content)
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def created(path: Path) -> BinaryIO:
    """An empty file in place of whatever was called so; what a link there points to is not touched."""
    path.unlink(missing_ok=True)
    return open(_own(path, os.O_CREAT | os.O_EXCL), "wb")


@contextmanager
def about(path: Path) -> Iterator[None]:
    """An OSError names `path`: a full disk does not say where, and a partial file is nothing that anybody named."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def to_the_disk(file: BinaryIO, content: bytes) -> None:
    """Write and wait until it is on the disk."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a run folder; a second run on it is refused."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise InputError(f"{folder} is being written by another run; wait for it, or choose another --out") from None


def _opened(path: Path) -> BinaryIO:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is no regular file; was the run folder changed?")
    return path.open("rb")


def _own(path: Path, how: int = 0) -> int:
    """A descriptor to write by: of the file that is called so, never of one that a link points to."""
    return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | how, 0o666)


def _whole_lines(path: Path) -> Iterator[tuple[Row, int]]:
    end = 0
    with _opened(path) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(row, dict):
                return
            end += len(line)
            yield row, end
