"""Which pictures are slightly changed copies of known ones: small vectors propose, full resolution decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from poisonfrogs.compare import LIMIT, OPACITIES, Comparison, blend, compare
from poisonfrogs.images import Images, joined
from poisonfrogs.neighbours import (
    DIM,
    coarse,
    contrasting,
    halved,
    mirrored,
    nearest,
    normalised,
    plain,
    thumbnails,
    unit,
)
from poisonfrogs.pictures import Unreadable
from poisonfrogs.progress import Progress, foretelling
from poisonfrogs.types import InputError

KINDS = ("identical", "identical pixels", "re-encoded", "resized", "perturbed", "blend")
SUSPICIOUS = ("perturbed", "blend")
_CHUNK = 4096  # pictures looked up at a time
_NEAR = 3  # known pictures looked at for each picture, orientation and distance
_ALIKE = 0.6  # correlation with its base that a blend has at least: 0.3 of a picture of 10 times its variance has 0.6
_OTHERS = 5  # pictures looked at for what a base leaves unexplained
_PROPOSED = LIMIT + 4 / 255  # of thumbnails, which are rounded, and know nothing of a file's encoding


@dataclass(frozen=True)
class Finding:
    """A picture that is a copy of a known one."""

    row: int
    known: int
    kind: str  # one of KINDS
    mirrored: bool = False  # against the known one
    rms: float = 0.0  # of what is left, pixels in [0, 1]
    linf: float = 0.0
    opacity: float | None = None  # of the other picture, of a blend
    other: int | None = None  # of a blend: number of the other picture, the known ones first, then those looked at
    other_mirrored: bool = False  # against the other picture


@dataclass(frozen=True, eq=False)
class Matches:
    """What was looked at and what was found, in the order of the pictures."""

    findings: tuple[Finding, ...]
    looked_at: int
    known: int
    readable: tuple[int, int]  # of those looked at, of those known
    unreadable: tuple[dict[str, str], dict[str, str]]  # id -> why, of the same two; no second one of a set with itself

    def counts(self) -> dict[str, int]:
        """How many findings of each kind."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS}


def match(
    data: Images, known: Images, *, same: bool = False, progress: Progress = lambda stage, done, of: None
) -> Matches:
    """Find the pictures of `data` that are copies of pictures in `known`; `same`: a set is compared with itself.

    Memory grows by 768 bytes a picture, and what a chunk of pictures needs. Raises InputError for an empty set.
    """
    for images, name in ((data, "looked at"), (known, "known")):
        if not len(images):
            raise InputError(f"there are no pictures among those {name}; nothing could be compared")
    everything = known if same else joined(known, data)
    firsts, places = _distinct(everything.hashes)
    n_known = int(np.searchsorted(firsts, len(known)))
    search = _Search.over(everything.select(firsts), n_known, same, progress)
    found = search.findings(progress)
    why = [search.unreadable.get(place) for place in places]
    of_data, of_known = why[-len(data) :], why[: len(known)]
    return Matches(
        findings=tuple(_of_all(found, firsts, places, n_known, len(everything) - len(data))),
        looked_at=len(data),
        known=len(known),
        readable=(of_data.count(None), of_known.count(None)),
        unreadable=(_named(data, of_data), {} if same else _named(known, of_known)),
    )


def explained(finding: Finding, data: Images, numbered: Images) -> Comparison:
    """A finding once more, with the difference that it does not keep; `numbered`: the known ones, then `data`.

    Raises Unreadable, for pictures that have changed meanwhile as well.
    """
    by = _Candidate(finding.known, finding.mirrored, finding.other, finding.other_mirrored)
    said = _explanation(*_read(data, finding.row), by, numbered)
    assert said  # of the same bytes as when it was found
    return said


def _distinct(hashes: Sequence[str]) -> tuple[list[int], list[int]]:
    """The first picture of each content; and of every picture, which of these has its content.

    Copies would take the places of what is near, and hide it.

    >>> _distinct(["a", "b", "a", "c"])
    ([0, 1, 3], [0, 1, 0, 2])
    """
    seen: dict[str, int] = {}
    places = [seen.setdefault(content, len(seen)) for content in hashes]
    return np.unique(places, return_index=True)[1].tolist(), places


def _of_all(
    found: dict[int, Finding], firsts: list[int], places: list[int], n_known: int, offset: int
) -> Iterator[Finding]:
    """The findings of distinct pictures told of every picture looked at (those from `offset` on), by its own number."""
    for number, place in enumerate(places[offset:], offset):
        if place < n_known and firsts[place] != number:
            yield Finding(number - offset, firsts[place], "identical")
        elif place in found:
            one = found[place]
            other = None if one.other is None else firsts[one.other]
            yield replace(one, row=number - offset, known=firsts[one.known], other=other)


def _named(images: Images, why: Sequence[str | None]) -> dict[str, str]:
    return {name: said for name, said in zip(images.ids, why, strict=True) if said is not None}


def _chunks(todo: Sequence[int]) -> Iterator[np.ndarray]:
    """What is looked up at a time; little at first, so that it is soon known how long all of it takes."""
    starts = [0, *range(_CHUNK // 4, len(todo), _CHUNK), len(todo)]
    for start, end in pairwise(starts if todo else ()):
        yield np.array(todo[start:end], dtype=np.int64)


class _Candidate(NamedTuple):
    """What a picture may be explained by."""

    known: int
    mirrored: bool
    other: int | None = None
    other_mirrored: bool = False


_Candidates = dict[int, list[_Candidate]]  # by the picture that they may explain


@dataclass(frozen=True, eq=False)
class _Search:
    images: Images  # no two of the same content, the known ones first
    known: int  # how many of them are known
    same: bool  # the known ones are themselves looked at, and no others
    thumbs: np.ndarray
    unreadable: dict[int, str]
    bases: np.ndarray  # numbers of the known ones that can be read: others are black, and would hide dark ones
    others: np.ndarray  # numbers of all that may be blended in: those without contrast are near to whatever is left

    @classmethod
    def over(cls, images: Images, known: int, same: bool, progress: Progress) -> _Search:
        thumbs, unreadable = thumbnails(images, foretelling(progress, "reading the pictures", len(images)))
        readable = np.ones(len(images), dtype=bool)
        readable[list(unreadable)] = False
        others = (readable & contrasting(thumbs)).nonzero()[0]
        return cls(images, known, same, thumbs, unreadable, readable[:known].nonzero()[0], others)

    def findings(self, progress: Progress) -> dict[int, Finding]:
        """By the picture that is a copy: the known one that explains it best."""
        looked_at = range(0 if self.same else self.known, len(self.images))
        todo = [row for row in looked_at if row not in self.unreadable]
        tell = foretelling(progress, f"comparing ({'faiss' if _has_faiss() else 'NumPy'})", len(todo))
        tell(0)
        found: dict[int, Finding] = {}
        for rows in _chunks(todo):
            found |= self._best(self._copies(rows))
            left = [row for row in rows.tolist() if row not in found or not self._final(found[row])]
            found |= self._best(self._blends(np.array(left, dtype=np.int64)))
            tell(len(rows))
        return found

    def _final(self, finding: Finding) -> bool:
        """Whether a better one need not be looked for: in one set, a poison and its copies explain each other."""
        return not self.same or finding.kind in SUSPICIOUS

    def _best(self, candidates: _Candidates) -> dict[int, Finding]:
        found = {}
        for row, proposed in candidates.items():
            if explanations := list(self._explanations(row, proposed)):
                found[row] = min(explanations, key=lambda one: (not self._final(one), one.rms))
        return found

    def _explanations(self, row: int, candidates: Sequence[_Candidate]) -> Iterator[Finding]:
        picture, content = _read(self.images, row)
        for by in candidates:
            try:
                said = _explanation(picture, content, by, self.images)
            except Unreadable:
                continue
            if said:
                yield Finding(row, kind=said.kind, rms=said.rms, linf=said.linf, opacity=said.opacity, **by._asdict())

    def _copies(self, rows: np.ndarray) -> _Candidates:
        """Known pictures that are near."""
        near: _Candidates = {}
        for flipped in (False, True):
            queries = self._turned(rows, flipped)
            distances, numbers = nearest(plain(queries), self.thumbs, self.bases, plain, _NEAR + self.same)
            close = (np.sqrt(distances / DIM) <= _PROPOSED) & (numbers != rows[:, None])
            for at, column in np.argwhere(close):
                near.setdefault(int(rows[at]), []).append(_Candidate(int(numbers[at, column]), flipped))
        return near

    def _blends(self, rows: np.ndarray) -> _Candidates:
        """Known pictures and what may be blended in: what the base leaves unexplained is looked up."""
        near: _Candidates = {}
        for flipped in (False, True):
            queries = self._turned(rows, flipped)
            k = _NEAR + self.same
            distances, numbers = nearest(normalised(queries), self.thumbs, self.bases, normalised, k)
            at, column = np.nonzero((1 - distances / 2 >= _ALIKE) & (numbers != rows[:, None]))
            for turned in (False, True) if len(at) else ():
                for row, known, other in self._completed(rows[at], numbers[at, column], flipped, turned):
                    near.setdefault(row, []).append(_Candidate(known, flipped, other, turned))
        return near

    def _completed(
        self, rows: np.ndarray, bases: np.ndarray, flipped: bool, turned: bool
    ) -> Iterator[tuple[int, int, int]]:
        """(picture, its base, the other picture) that explain each other at the size of thumbnails.

        The picture is mirrored against its base where `flipped`, against the other where `turned`.
        """
        pixels, base = plain(self._turned(rows, turned)), plain(self._turned(bases, flipped != turned))
        _, others = nearest(_unexplained(halved(pixels), halved(base)), self.thumbs, self.others, coarse, _OTHERS)
        for number in others.T:
            fits = (number >= 0) & (number != rows) & (number != bases)
            fits &= _blended(pixels, base, plain(self.thumbs[np.where(fits, number, 0)]))
            yield from zip(*(part[fits].tolist() for part in (rows, bases, number)), strict=True)

    def _turned(self, rows: np.ndarray, flipped: bool) -> np.ndarray:
        return mirrored(self.thumbs[rows]) if flipped else self.thumbs[rows]


def _read(images: Images, row: int) -> tuple[Image.Image, bytes | None]:
    """A picture, and the bytes of its file where it has one."""
    content = images.source.read(int(images.rows[row]))
    return images[row], content if isinstance(content, bytes) else None


def _explanation(picture: Image.Image, content: bytes | None, by: _Candidate, numbered: Images) -> Comparison | None:
    known = numbered[by.known]
    if by.other is None:
        return compare(picture, content, known, by.mirrored)
    return blend(picture, content, known, numbered[by.other], by.mirrored, by.other_mirrored)


def _unexplained(pixels: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What is left of pictures once their bases are taken out as far as they go, as unit vectors (n, d)."""
    pixels, direction = unit(pixels), unit(base)
    along = np.einsum("ij,ij->i", pixels, direction)[:, None]
    return unit(pixels - along * direction)


def _blended(pixels: np.ndarray, base: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Where a blend of base and mark is near enough to the picture, at the opacity of least squares: bool (n,)."""
    towards, moved = mark - base, pixels - base
    squares = np.einsum("ij,ij->i", towards, towards)
    opacity = np.einsum("ij,ij->i", moved, towards) / np.maximum(squares, 1e-6)
    left = moved - opacity[:, None] * towards
    rms = np.sqrt(np.einsum("ij,ij->i", left, left) / DIM)
    low, high = OPACITIES
    return np.asarray((opacity >= low) & (opacity <= high) & (rms <= _PROPOSED))


def _has_faiss() -> bool:
    from importlib.util import find_spec

    return find_spec("faiss") is not None
