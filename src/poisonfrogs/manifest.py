"""A manifest: a line of JSON for each file of a tree, sorted by path; and what differs between two of them.

The format, version 1: the first line is `{"format":"poisonfrogs manifest","version":1}`, every other one an entry,
UTF-8. `path` is spelled as `tree.spell` does; paths increase strictly, compared byte by byte. A file has `size`,
`mtime_ns` and `sha256`; a link has `link`, where it points to, in the same spelling. `label` is the class folder
it lies in, and what a sources CSV says follows. Nothing else is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring as _text
from typing import NamedTuple, Protocol

from poisonfrogs.sources import FIELDS, Sources
from poisonfrogs.tree import Entry, spell, unspell
from poisonfrogs.types import InputError

SPLITS = ("train", "val", "valid", "validation", "test")  # folders that may stand above class folders
HEADER = b'{"format":"poisonfrogs manifest","version":1}\n'
KINDS = ("changed", "missing", "added", "renamed", "label moved", "metadata changed")
_LONGEST = 1 << 16  # bytes of a line: a path has 4,096 at most
_OUTSIDE = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)|\0")  # a part that is empty, "." or "..", or a NUL
_HASH = re.compile("[0-9a-f]{64}")
_COUNT = range(2**63)
_decode = json.JSONDecoder().raw_decode


class Lines(Protocol):
    """What a manifest is read from."""

    def readline(self, limit: int, /) -> bytes: ...


Likely = Callable[[], Entry | None]  # what the next line probably is about


class Row(NamedTuple):
    """A line of a manifest."""

    entry: Entry
    label: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was."""

    kind: str  # one of KINDS
    path: str  # where it is now; where it was, for what is missing
    was: str | None  # where the same content was before, or what has changed
    source: str | None  # of what is there now


def label_of(path: bytes) -> str | None:
    """The class folder a file lies in.

    >>> label_of(b"train/dog/a/1.png"), label_of(b"dog/1.png"), label_of(b"1.png"), label_of(b"train/1.png")
    ('dog', 'dog', None, None)
    """
    return _label(path.rpartition(b"/")[0])


@lru_cache
def _label(folder: bytes) -> str | None:
    names = folder.split(b"/")
    if names[0].decode("utf-8", "replace") in SPLITS:
        names = names[1:]
    return spell(names[0]) if names and names[0] else None


def row_of(entry: Entry, sources: Sources) -> Row:
    """What a manifest says of an entry."""
    return Row(entry, label_of(entry.path), sources.of(entry.path))


def encode(row: Row) -> bytes:
    """One line. Raises InputError where it is longer than `read` takes it."""
    line = _head(row.entry) + _tail(row.label, row.metadata)
    if len(line) > _LONGEST:
        raise InputError(
            f"{spell(row.entry.path)} takes {len(line):,} bytes of the manifest, more than {_LONGEST:,}; "
            "shorten what the sources CSV says of it"
        )
    return line


def _head(entry: Entry) -> bytes:
    path, size, mtime, content, link = entry
    what = f'"size":{size},"mtime_ns":{mtime},"sha256":"{content}"' if link is None else f'"link":{_text(spell(link))}'
    return f'{{"path":{_text(spell(path))},{what}'.encode()


def _tail(label: str | None, metadata: dict[str, str]) -> bytes:
    more = {"label": label, **metadata} if label is not None else metadata
    return ("".join(f',"{name}":{_text(value)}' for name, value in more.items()) + "}\n").encode()


def read(file: Lines, name: str, *, likely: Likely = lambda: None) -> Iterator[Row]:
    """The rows of a manifest, checked one by one; one that is `likely` to come next is found without being parsed.

    Raises InputError for anything that `encode` does not write, and for rows out of order.
    """
    if file.readline(_LONGEST) != HEADER:
        raise InputError(f"{name} is not a manifest of version 1; expected what poisonfrogs sign writes")
    before, number = None, 1
    while line := file.readline(_LONGEST):
        number += 1
        try:
            row = _row(line, likely())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = str(error)[:200]
            raise InputError(f"{name}, line {number} is no entry of a manifest ({why}); sign the data again") from None
        if before is not None and row.entry.path <= before:
            raise InputError(f"{name}, line {number} is out of order or a path twice; sign the data again")
        before = row.entry.path
        yield row
    if before is None:
        raise InputError(f"{name} names no files; nothing could be checked")


def _row(line: bytes, likely: Entry | None) -> Row:
    entry = likely
    if entry is None or not line.startswith(head := _head(entry)):
        entry = _entry(line)
        head = _head(entry)
        if not line.startswith(head):
            raise ValueError("it is not written as it should be")
    return Row(entry, *_told(line[len(head) :]))


def _entry(line: bytes) -> Entry:
    what, _ = _decode(line.decode("utf-8"))  # what follows is compared with what should be there
    path = unspell(what["path"])
    if _OUTSIDE.search(path):
        raise ValueError(f"{what['path']!r} is no path inside a tree")
    if "link" in what:
        return Entry(path, link=unspell(what["link"]))
    size, mtime, content = what["size"], what["mtime_ns"], what["sha256"]
    if type(size) is not int or type(mtime) is not int or size not in _COUNT or not _HASH.fullmatch(content):
        raise ValueError("a size, a time or a hash of the wrong kind")
    return Entry(path, size, mtime, content)


@lru_cache
def _told(tail: bytes) -> tuple[str | None, dict[str, str]]:
    """Label and metadata, as `_tail` writes them: neighbours in a folder mostly have the same."""
    what, _ = _decode("{" + tail.decode("utf-8").removeprefix(","))
    label, metadata = what.get("label"), {name: what[name] for name in FIELDS if name in what}
    for text in metadata.values() if label is None else (label, *metadata.values()):
        if type(text) is not str:
            raise ValueError("a text of the wrong kind")
    if _tail(label, metadata) != tail:
        raise ValueError("it is not written as it should be")
    return label, metadata


def differences(old: Iterable[Row], new: Iterable[Row], *, metadata: bool) -> Iterator[Difference]:
    """Everything that is not in `new` as it is in `old`, both in order; in bounded memory but for what differs.

    Without hashes in `new`, sizes and times are compared. With `metadata`, what is known about files counts, too.
    """
    gone: list[Row] = []
    added: list[Row] = []
    for before, after in _side_by_side(old, new):
        if before is None:
            added.append(after)  # type: ignore[arg-type]  # never are both None
        elif after is None:
            gone.append(before)
        elif why := _change(before.entry, after.entry):
            yield Difference("changed", spell(after.entry.path), why, _source(after))
        elif metadata and (why := _metadata_change(before, after)):
            yield Difference("metadata changed", spell(after.entry.path), why, _source(after))
    missing = _Missing(gone)
    for after in added:
        yield _arrival(after, missing.take(after))
    for before in missing.left():
        yield Difference("missing", spell(before.entry.path), None, _source(before))


def _side_by_side(old: Iterable[Row], new: Iterable[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows of the same path together, in order; None where one side has no such path. The new one is asked first."""
    befores, afters = iter(old), iter(new)
    after, before = next(afters, None), next(befores, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.entry.path < after.entry.path):
            yield before, None
            before = next(befores, None)
        elif before is None or after.entry.path < before.entry.path:
            yield None, after
            after = next(afters, None)
        else:
            yield before, after
            after, before = next(afters, None), next(befores, None)


def _content(entry: Entry) -> object:
    if entry.link is not None:
        return entry.link
    return entry.sha256 or (entry.size, entry.mtime_ns)


def _change(before: Entry, after: Entry) -> str | None:
    if (before.link is None) != (after.link is None):
        return "a link has become a file" if after.link is None else "a file has become a link"
    if before.link != after.link:
        return "the link points elsewhere"
    if before.size != after.size:
        return f"{before.size} bytes have become {after.size}"
    if after.sha256 is None and before.mtime_ns != after.mtime_ns:
        return "another time"
    return "other content" if after.sha256 not in (None, before.sha256) else None


def _metadata_change(before: Row, after: Row) -> str | None:
    names = [name for name in FIELDS if before.metadata.get(name) != after.metadata.get(name)]
    names += ["label"] if before.label != after.label else []
    said = [f"{name} {_said(before, name)} is now {_said(after, name)}" for name in names]
    return "; ".join(said) or None


def _said(row: Row, name: str) -> str:
    value = row.label if name == "label" else row.metadata.get(name)
    return "unknown" if value is None else repr(value)


class _Missing:
    """Rows that are gone, in order; each is handed out once, to what has its content. No row is looked at twice."""

    def __init__(self, rows: list[Row]) -> None:
        self._by_content: dict[object, list[Row]] = {}  # the first one last; what is handed out by label stays in here
        self._by_label: dict[tuple[object, str | None], list[Row]] = {}  # the same; each row that is left is in here
        for row in reversed(rows):
            content = _content(row.entry)
            self._by_content.setdefault(content, []).append(row)
            self._by_label.setdefault((content, row.label), []).append(row)

    def take(self, after: Row) -> Row | None:
        """The first row that has this content and this label, else the first that has this content."""
        content = _content(after.entry)
        if alike := self._by_label.get((content, after.label)):
            return alike.pop()
        others = self._by_content.get(content, [])
        while others:
            row = others.pop()
            alike = self._by_label[content, row.label]
            if alike and alike[-1] is row:
                return alike.pop()
        return None

    def left(self) -> list[Row]:
        return sorted(row for rows in self._by_label.values() for row in rows)


def _arrival(after: Row, before: Row | None) -> Difference:
    """What came in: new, or missing elsewhere."""
    if before is None:
        return Difference("added", spell(after.entry.path), None, _source(after))
    kind = "renamed" if before.label == after.label else "label moved"
    return Difference(kind, spell(after.entry.path), spell(before.entry.path), _source(after))


def _source(row: Row) -> str | None:
    return row.metadata.get("source")
