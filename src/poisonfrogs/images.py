"""Labelled pictures, wherever they lie: decoded on demand, never all in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from poisonfrogs.pictures import Decoded, Gone, Unreadable, decode
from poisonfrogs.types import Edit, InputError

TEST_NAMES = ("val", "valid", "validation", "test")  # the first that is there is the test split
TEST_SHARE = 0.2  # of data that names no splits


class Source(Protocol):
    """Where pictures lie: row number -> the file's bytes, or the pixels themselves."""

    def read(self, row: int) -> bytes | np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Images(Sequence[Image.Image]):
    """A split: a sequence of RGB pictures of any sizes, decoded each time one is asked for."""

    source: Source
    rows: np.ndarray  # (n,) rows of the source
    ids: tuple[str, ...]  # paths relative to DATA; split/row for tables
    labels: np.ndarray  # (n,) int64
    hashes: tuple[str, ...]  # SHA-256 of the stored bytes (of shape and pixels, for arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self.decode(i).image

    def decode(self, i: int) -> Decoded:
        """The picture, with what had to be converted. Raises Unreadable, and Gone where another lies in its place."""
        content = self.source.read(int(self.rows[i]))
        if not isinstance(content, bytes):
            return Decoded(Image.fromarray(content))
        if hashlib.sha256(content).hexdigest() != self.hashes[i]:
            raise Gone(f"{self.ids[i]} is another file now than when the data were listed", "start again")
        return decode(content)

    def select(self, keep: Iterable[int]) -> Images:
        """The same pictures, only those rows."""
        keep = list(keep)
        return Images(
            self.source,
            self.rows[keep],
            tuple(self.ids[i] for i in keep),
            self.labels[keep],
            tuple(self.hashes[i] for i in keep),
        )


class Splits(NamedTuple):
    """What a layout holds."""

    classes: tuple[str, ...]
    train: Images
    test: Images
    skipped: dict[str, str]  # id -> why it is left out
    own_test: bool  # whether the layout tells which are the test pictures; else they were split off here


@dataclass(frozen=True, eq=False)
class Edited(Sequence[Image.Image]):
    """A training set with an edit applied; the set itself stays as it is."""

    images: Sequence[Image.Image]
    edit: Edit
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        gone = set(self.edit.removed)
        object.__setattr__(self, "kept", tuple(i for i in range(len(self.images)) if i not in gone))

    def __len__(self) -> int:
        return len(self.kept) + len(self.edit.added)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        if i < len(self.kept):
            return self.images[self.kept[i]]
        return self.edit.added[i - len(self.kept)].copy()  # whoever trains may draw on what is handed out

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """The labels that go with the edited set."""
        return np.concatenate([labels[list(self.kept)], np.full(len(self.edit.added), self.edit.label)])


@dataclass(frozen=True)
class Files:
    """Picture files by their paths."""

    paths: tuple[str, ...]

    def read(self, row: int) -> bytes:
        """The file's bytes. Raises Gone."""
        try:
            with open(self.paths[row], "rb") as file:
                return file.read()
        except OSError as error:
            why = error.strerror or str(error)
            raise Gone(why, f"{self.paths[row]} was there when the data were listed; start again") from None


@dataclass(frozen=True)
class _Joined:
    first: Images
    second: Images

    def read(self, row: int) -> bytes | np.ndarray:
        images, i = (self.first, row) if row < len(self.first) else (self.second, row - len(self.first))
        return images.source.read(int(images.rows[i]))


def files(paths: Sequence[str], labels: Sequence[int]) -> Images:
    """Single picture files, their paths as ids. Raises InputError for one that cannot be opened."""
    source, hashes = Files(tuple(paths)), []
    for row, path in enumerate(paths):
        try:
            hashes.append(hashlib.sha256(source.read(row)).hexdigest())
        except Unreadable as why:
            said = why.args[0]
            raise InputError(f"{path} cannot be read ({said}); expected a picture file that may be read") from None
    return Images(source, np.arange(len(paths)), tuple(paths), np.array(labels, dtype=np.int64), tuple(hashes))


def joined(first: Images, second: Images) -> Images:
    """One set after the other."""
    return Images(
        _Joined(first, second),
        np.arange(len(first) + len(second)),
        first.ids + second.ids,
        np.concatenate([first.labels, second.labels]),
        first.hashes + second.hashes,
    )


def split(images: Images) -> tuple[Images, Images]:
    """Split by content, so that copies of a picture fall on the same side and a new picture moves no other.

    Only in a class so small that chance leaves one side empty is a picture put there.
    """
    held_out = {content for content in images.hashes if int(content[:8], 16) < TEST_SHARE * 2**32}
    for label in np.unique(images.labels):
        contents = {images.hashes[i] for i in np.flatnonzero(images.labels == label)}
        if not contents & held_out:
            held_out.add(min(contents))
        elif contents <= held_out:
            held_out.remove(max(contents))
    sides = [content in held_out for content in images.hashes]
    return (
        images.select(i for i, out in enumerate(sides) if not out),
        images.select(i for i, out in enumerate(sides) if out),
    )
