"""Two pictures at full resolution: the same, the same but re-encoded or resized, perturbed, or blended with a third."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from poisonfrogs.neighbours import averaged
from poisonfrogs.pictures import decode, encoded_like

LIMIT = (
    17 / 255
)  # root mean square that a perturbation leaves: an l-inf of 16/255 leaves at most 16/255, JPEG some more
AREA = 45 / 255  # l-inf of what is left, averaged over the areas of a thumbnail
BLEND_AREA = 32 / 255  # the same for blends, which have more to choose from
EXPLAINED = 1 / 255  # root mean square that encoding or resizing leaves unexplained at most
CONTRAST = 0.7  # of the picture's own contrast, which a perturbation is below: two blank pages are no copies
GAIN = 0.75  # of what the base alone leaves, which a blend leaves at most
OPACITIES = (0.05, 0.6)  # of the blends that are told
_FILTERS = tuple(Image.Resampling)


@dataclass(frozen=True, eq=False)
class Comparison:
    """How a picture is explained by a known one."""

    kind: str  # identical pixels, re-encoded, resized, perturbed, blend
    rms: float  # of what is left, pixels in [0, 1]
    linf: float
    difference: np.ndarray  # float32 (h, w, 3), what is left
    opacity: float | None = None  # of the other picture, where blended


def compare(picture: Image.Image, content: bytes | None, known: Image.Image, mirrored: bool) -> Comparison | None:
    """How `picture` (its file's bytes: `content`) is a copy of `known`; None where it is none."""
    pixels = _pixels(picture)
    best: Comparison | None = None
    for kind, candidate in _variants(_turned(known, mirrored), picture.size, content):
        found = _left(kind, pixels - _pixels(candidate))
        if found.rms <= (EXPLAINED if kind != "identical pixels" else 0):
            return found
        if best is None or found.rms < best.rms:
            best = found
    if best is None or not _near(best, pixels, AREA):
        return None
    return replace(best, kind="perturbed")


def blend(
    picture: Image.Image,
    content: bytes | None,
    known: Image.Image,
    other: Image.Image,
    mirrored: bool,
    other_mirrored: bool,
) -> Comparison | None:
    """How `picture` is (1 - opacity) known + opacity other, and a perturbation; None where it is not.

    The opacity is that of least squares. Both are mirrored as is said of each, and brought to the picture's size.
    """
    pixels = _pixels(picture)
    turned = _turned(known, mirrored), _turned(other, other_mirrored)
    base, mark = (_pixels(_sized(image, picture.size)) for image in turned)
    opacity = opacity_of(pixels, base, mark)
    if not OPACITIES[0] <= opacity <= OPACITIES[1]:
        return None
    blended = Image.fromarray(np.rint(255 * ((1 - opacity) * base + opacity * mark)).astype(np.uint8))
    variants = (_left("blend", pixels - _pixels(one)) for _, one in _variants(blended, picture.size, content))
    best = min(variants, key=lambda found: found.rms)
    if not _near(best, pixels, BLEND_AREA) or best.rms > GAIN * _left("blend", pixels - base).rms:
        return None
    return replace(best, opacity=opacity)


def _near(found: Comparison, pixels: np.ndarray, area: float) -> bool:
    """Whether what is left is small everywhere: another object in the same sky leaves little, but in one place."""
    small = float(np.abs(averaged(found.difference)).max()) <= area
    return small and found.rms <= LIMIT and found.rms < CONTRAST * float(pixels.std())


def opacity_of(pixels: np.ndarray, base: np.ndarray, mark: np.ndarray) -> float:
    """The opacity at which `mark` over `base` is nearest to `pixels`, by least squares.

    >>> opacity_of(np.array([0.3, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    0.3
    """
    towards = (mark - base).ravel()
    return float((pixels - base).ravel() @ towards / max(float(towards @ towards), 1e-12))


def _variants(known: Image.Image, size: tuple[int, int], content: bytes | None) -> Iterator[tuple[str, Image.Image]]:
    """The known picture as it would be if nothing but encoding and resizing had happened to it."""
    same = known.size == size
    for resized in [known] if same else [known.resize(size, how) for how in _FILTERS]:
        yield "identical pixels" if same else "resized", resized
        if encoded := _decoded(encoded_like(content, resized)):
            yield "re-encoded" if same else "resized", encoded


def _decoded(content: bytes | None) -> Image.Image | None:
    return decode(content).image if content else None


def _left(kind: str, difference: np.ndarray) -> Comparison:
    rms = float(np.sqrt(np.square(difference, dtype=np.float64).mean()))
    return Comparison(kind, rms, float(np.abs(difference).max()), difference)


def _turned(image: Image.Image, mirrored: bool) -> Image.Image:
    return ImageOps.mirror(image) if mirrored else image


def _sized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32) / 255
