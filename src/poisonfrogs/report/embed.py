"""Pictures inside the page: exact bytes where there is room, reduced ones where there are many."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from poisonfrogs.pictures import mark_of
from poisonfrogs.report.folder import Folder, Outcome, RunFolder

WHOLE = 6_000_000  # characters of the page for pictures as they are; the rest is reduced
REDUCED = 4_500_000  # characters for all of those
LONGEST = 640  # pixels of a side, beyond which no picture is embedded as it is
_DESCRIPTION = 0x010E  # EXIF 2.32, 4.6.4
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


@dataclass(frozen=True)
class Embedded:
    """A picture for the page."""

    uri: str
    width: int  # of the picture as it lies in the run
    height: int
    whole: bool  # embedded at that size


@dataclass(frozen=True)
class Panel:
    """What is shown of a trial: target, base, poison, difference; None for what the run folder lacks."""

    target: Embedded | None
    base: Embedded | None
    poison: Embedded | None
    difference: Embedded | None


def data_uri(content: bytes) -> str:
    """The bytes of a picture as an address.

    >>> data_uri(b"\\x89PNG")
    'data:image/png;base64,iVBORw=='
    """
    kind = next(kind for start, kind in _KINDS.items() if content.startswith(start))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def magnification(run: RunFolder) -> int:
    """By how much differences are magnified: the largest change of a base in the run just fits, 16 at most."""
    changes = (change for one in run.outcomes for change in one.linf_from_base if not one.failed)
    largest = max(changes, default=0.0)
    return max(1, min(16, int(127 / max(255 * largest, 1))))


def panels(run: RunFolder, outcomes: list[Outcome]) -> list[Panel]:
    """The pictures of trials, in their order: the first ones as they are, the others as small as it takes."""
    k = magnification(run)
    found: list[Panel] = []
    room = WHOLE
    for one in outcomes:
        if room <= 0:
            break
        found.append(_panel(run, one, k, None))
        room -= sum(len(picture.uri) for picture in vars(found[-1]).values() if picture)
    rest = outcomes[len(found) :]
    side = (REDUCED / max(len(rest), 1) / 4 / 0.6) ** 0.5  # about 0.6 characters a pixel
    return found + [_panel(run, one, k, int(min(max(side, 40), 240))) for one in rest]


def _panel(run: RunFolder, outcome: Outcome, k: int, side: int | None) -> Panel:
    files = outcome.target_file, outcome.base_files[0], outcome.poison_files[0]
    target, base, poison = (picture(run, file, side) for file in files)
    return Panel(target, base, poison, difference(run, files[1], files[2], k, side))


def picture(run: Folder, file: str, side: int | None = None) -> Embedded | None:
    """A picture of the run: its very bytes, unless a `side` is given or it is larger than LONGEST."""
    image, content = run.picture(file), run.content(file)
    if image is None or content is None:
        return None
    if side is None and max(image.size) <= LONGEST and content.startswith(tuple(_KINDS)):
        return Embedded(data_uri(content), *image.size, whole=True)
    small = _reduced(image, side or LONGEST, mark_of(content))
    return Embedded(small, *image.size, whole=max(image.size) <= (side or LONGEST))


def difference(run: Folder, first: str, second: str, k: int, side: int | None = None) -> Embedded | None:
    """What is to be added to the first picture to get the second, times k, around grey."""
    a, b = run.picture(first), run.picture(second)
    if a is None or b is None or a.size != b.size:
        return None
    change = np.asarray(b, dtype=np.int16) - np.asarray(a, dtype=np.int16)
    shown = Image.fromarray(np.clip(128 + k * change, 0, 255).astype(np.uint8))
    return Embedded(_reduced(shown, side or LONGEST), *shown.size, whole=max(shown.size) <= (side or LONGEST))


def _reduced(image: Image.Image, side: int, mark: str | None = None) -> str:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2)
    said = Image.Exif()
    if mark:
        said[_DESCRIPTION] = mark
    out = io.BytesIO()
    quality, lossless = 90 if max(small.size) > 160 else 75, max(image.size) <= 64
    small.save(out, "WEBP", quality=quality, lossless=lossless, method=2, exif=said if mark else b"")
    return data_uri(out.getvalue())
