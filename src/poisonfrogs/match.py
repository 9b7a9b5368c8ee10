"""Which pictures are slightly changed copies of known ones: small vectors propose, full resolution decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from poisonfrogs.compare import LIMIT, OPACITIES, Comparison, blend, compare
from poisonfrogs.images import Images
from poisonfrogs.neighbours import DIM, coarse, halved, mirrored, nearest, normalised, plain, thumbnails, unit
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


@dataclass(frozen=True, eq=False)
class Finding:
    """A picture that is a copy of a known one."""

    row: int
    known: int
    kind: str  # one of KINDS
    mirrored: bool = False
    comparison: Comparison | None = None  # None for identical files
    other: int | None = None  # of a blend: number of the other picture, the known ones first, then those looked at


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
    search = _Search.over(data, known, same, progress)
    findings = {finding.row: finding for finding in search.identical()}
    todo = [i for i in range(len(data)) if i not in findings and i not in search.unreadable_data]
    tell = foretelling(progress, f"comparing ({'faiss' if _has_faiss() else 'NumPy'})", len(todo))
    tell(0)
    for rows in _chunks(todo):
        found = list(search.copies(rows))
        findings |= {finding.row: finding for finding in found}
        left = np.array([row for row in rows if row not in findings], dtype=np.int64)
        findings |= {finding.row: finding for finding in search.blends(left)}
        tell(len(rows))
    unreadable = {data.ids[i]: why for i, why in search.unreadable_data.items()}
    unknown = {} if same else {known.ids[i]: why for i, why in search.unreadable_known.items()}
    return Matches(
        findings=tuple(findings[row] for row in sorted(findings)),
        looked_at=len(data),
        known=len(known),
        readable=(len(data) - len(search.unreadable_data), len(known) - len(search.unreadable_known)),
        unreadable=(unreadable, unknown),
    )


def _chunks(todo: Sequence[int]) -> Iterator[np.ndarray]:
    """What is looked up at a time; little at first, so that it is soon known how long all of it takes."""
    starts = [0, *range(_CHUNK // 4, len(todo), _CHUNK), len(todo)]
    for start, end in pairwise(starts if todo else ()):
        yield np.array(todo[start:end], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Search:
    data: Images
    known: Images
    same: bool
    looked_at: np.ndarray  # thumbnails of `data`
    thumbs: np.ndarray  # thumbnails of `known`
    unreadable_data: dict[int, str]
    unreadable_known: dict[int, str]

    @classmethod
    def over(cls, data: Images, known: Images, same: bool, progress: Progress) -> _Search:
        thumbs, unknown = thumbnails(known, foretelling(progress, "reading the known pictures", len(known)))
        looked_at, unread = (
            (thumbs, unknown) if same else thumbnails(data, foretelling(progress, "reading the pictures", len(data)))
        )
        return cls(data, known, same, looked_at, thumbs, unread, unknown)

    def identical(self) -> Iterator[Finding]:
        """Files that are the same bytes, without a picture being looked at."""
        first: dict[str, int] = {}
        for i, content in enumerate(self.known.hashes):
            first.setdefault(content, i)
        for row, content in enumerate(self.data.hashes):
            number = first.get(content)
            if number is not None and not (self.same and number == row):
                yield Finding(row, number, "identical")

    def copies(self, rows: np.ndarray) -> Iterator[Finding]:
        """Copies, each with the known picture that explains it best."""
        near: dict[int, list[tuple[int, bool]]] = {}
        for flipped in (False, True):
            queries = self._queries(rows, flipped)
            distances, numbers = nearest(plain(queries), [self.thumbs], plain, _NEAR + self.same)
            close = np.sqrt(distances / DIM) <= _PROPOSED
            for at, column in np.argwhere(close):
                near.setdefault(int(rows[at]), []).append((int(numbers[at, column]), flipped))
        for row, candidates in near.items():
            best = self._best_copy(row, candidates)
            if best is not None:
                yield best

    def _best_copy(self, row: int, candidates: Sequence[tuple[int, bool]]) -> Finding | None:
        picture, content = self._picture(row)
        best: Finding | None = None
        for number, flipped in candidates:
            if number in self.unreadable_known or (self.same and number == row):
                continue
            found = compare(picture, content, self.known[number], flipped)
            if found and (best is None or best.comparison is None or found.rms < best.comparison.rms):
                best = Finding(row, number, found.kind, flipped, found)
        return best

    def blends(self, rows: np.ndarray) -> Iterator[Finding]:
        """Pictures that are a known one with another blended in: what the base leaves unexplained is looked up."""
        near: dict[int, list[tuple[int, bool, int]]] = {}
        for flipped in (False, True):
            for row, number, other in self._proposed(rows, flipped):
                near.setdefault(row, []).append((number, flipped, other))
        for row, candidates in near.items():
            found = self._best_blend(row, candidates)
            if found is not None:
                yield found

    def _proposed(self, rows: np.ndarray, flipped: bool) -> Iterator[tuple[int, int, int]]:
        """(picture, its base, the other picture) that explain each other at the size of thumbnails."""
        queries = self._queries(rows, flipped)
        distances, numbers = nearest(normalised(queries), [self.thumbs], normalised, _NEAR + self.same)
        at, column = np.nonzero(1 - distances / 2 >= _ALIKE)
        bases = numbers[at, column]
        apart = ~(self.same & (bases == rows[at]))
        at, bases = at[apart], bases[apart]
        if not len(at):
            return
        pixels, base = plain(queries[at]), plain(self.thumbs[bases])
        pool = [self.thumbs] if self.same else [self.thumbs, self.looked_at]
        _, others = nearest(_unexplained(halved(pixels), halved(base)), pool, coarse, _OTHERS)
        own = rows[at] + (0 if self.same else len(self.known))
        for number in others.T:
            fits = (number >= 0) & (number != own) & (number != bases)
            mark = plain(self._thumbs_of(np.where(fits, number, 0)))
            fits &= _blended(pixels, base, mark)
            yield from zip(*(part[fits].tolist() for part in (rows[at], bases, number)), strict=True)

    def _best_blend(self, row: int, candidates: Sequence[tuple[int, bool, int]]) -> Finding | None:
        picture, content = self._picture(row)
        best: Finding | None = None
        for number, flipped, other in candidates:
            try:
                found = blend(picture, content, self.known[number], self.image(other), flipped)
            except Unreadable:
                continue
            if found and (best is None or best.comparison is None or found.rms < best.comparison.rms):
                best = Finding(row, number, "blend", flipped, found, other)
        return best

    def image(self, number: int) -> Image.Image:
        """A picture by its number, the known ones first."""
        found: Image.Image = self.known[number] if number < len(self.known) else self.data[number - len(self.known)]
        return found

    def _thumbs_of(self, numbers: np.ndarray) -> np.ndarray:
        inside = numbers < len(self.known)
        found = self.thumbs[np.where(inside, numbers, 0)]
        if not self.same:
            found[~inside] = self.looked_at[numbers[~inside] - len(self.known)]
        return found

    def _queries(self, rows: np.ndarray, flipped: bool) -> np.ndarray:
        return mirrored(self.looked_at[rows]) if flipped else self.looked_at[rows]

    def _picture(self, row: int) -> tuple[Image.Image, bytes | None]:
        content = self.data.source.read(int(self.data.rows[row]))
        return self.data[row], content if isinstance(content, bytes) else None


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
