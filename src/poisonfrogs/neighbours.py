"""Pictures as small vectors, and the exact nearest among them: faiss where it is installed, NumPy elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from PIL import Image

from poisonfrogs.images import Images
from poisonfrogs.pictures import Unreadable

SIDE = 16  # pixels a side of a thumbnail
DIM = SIDE * SIDE * 3
_AT_ONCE = 512  # pictures decoded at a time
_STRIP = 512  # rows of a picture that are numbers of 32 bits at a time
_BLOCK = 1 << 14  # vectors compared at a time, on either side

Prepare = Callable[[np.ndarray], np.ndarray]  # uint8 (n, SIDE, SIDE, 3) -> float32 (n, d)


def thumbnail(image: Image.Image) -> np.ndarray:
    """The whole picture, averaged over areas to uint8 (SIDE, SIDE, 3).

    Averages of two pictures are no further apart (root mean square) than the pictures: what is near is never missed.
    That wants every pixel to weigh the same, one that lies in two areas as well; Pillow's BOX gives it to one of them.
    """
    return np.asarray(np.rint(averaged(np.asarray(image))), dtype=np.uint8)


def averaged(pixels: np.ndarray) -> np.ndarray:
    """The same of (h, w, 3) of any type, to float32 (SIDE, SIDE, 3)."""
    height, width = pixels.shape[:2]
    down, across = _areas(height), _areas(width)
    strips = [slice(top, top + _STRIP) for top in range(0, height, _STRIP)]
    rows = sum(down[:, strip] @ pixels[strip].reshape(-1, width * 3).astype(np.float32) for strip in strips)
    columns = np.asarray(rows).reshape(SIDE, width, 3).swapaxes(0, 1).reshape(width, -1)
    return np.ascontiguousarray((across @ columns).reshape(SIDE, SIDE, 3).swapaxes(0, 1))


@lru_cache(maxsize=256)
def _areas(pixels: int) -> np.ndarray:
    """How much of each pixel of a line counts in each of SIDE equal parts of it: float32 (SIDE, pixels)."""
    ends = np.arange(SIDE + 1) * pixels / SIDE
    covered = np.minimum(ends[1:, None], np.arange(1, pixels + 1)) - np.maximum(ends[:-1, None], np.arange(pixels))
    return (covered.clip(min=0) * SIDE / pixels).astype(np.float32)


def thumbnails(
    images: Images, progress: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, dict[int, str]]:
    """Thumbnails of all pictures, uint8 (n, SIDE, SIDE, 3), and why some have none (theirs are black)."""
    found = np.zeros((len(images), SIDE, SIDE, 3), dtype=np.uint8)
    unreadable: dict[int, str] = {}

    def one(i: int) -> None:
        try:
            found[i] = thumbnail(images[i])
        except Unreadable as why:
            unreadable[i] = str(why)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(images)))
            for _ in pool.map(one, rows):
                pass
            progress(len(rows))
    return found, dict(sorted(unreadable.items()))


def plain(pictures: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as vectors, float32 (n, DIM)."""
    return pictures.reshape(-1, DIM).astype(np.float32) / 255


def normalised(pictures: np.ndarray) -> np.ndarray:
    """The same with mean 0 and length 1: half the squared distance of two is 1 less their correlation."""
    return unit(plain(pictures))


def coarse(pictures: np.ndarray) -> np.ndarray:
    """The same of thumbnails half the side: a quarter of the work."""
    return unit(halved(plain(pictures)))


def halved(vectors: np.ndarray) -> np.ndarray:
    """Vectors of thumbnails half the side, float32 (n, DIM / 4)."""
    half = SIDE // 2
    pixels = vectors.reshape(-1, half, 2, half, 2, 3)
    areas = pixels[:, :, 0, :, 0] + pixels[:, :, 0, :, 1] + pixels[:, :, 1, :, 0] + pixels[:, :, 1, :, 1]
    return np.asarray(areas.reshape(-1, DIM // 4) / np.float32(4))  # mean(axis=(2, 4)) takes three times as long


def contrasting(thumbs: np.ndarray) -> np.ndarray:
    """Which thumbnails have contrast at half their side: bool (n,)."""
    blocks = (thumbs[start : start + _BLOCK] for start in range(0, len(thumbs), _BLOCK))
    return np.concatenate([coarse(block).any(axis=1) for block in blocks])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors with mean 0 and length 1; those without contrast become 0."""
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def mirrored(pictures: np.ndarray) -> np.ndarray:
    """The same pictures, left and right exchanged."""
    return np.ascontiguousarray(pictures[:, :, ::-1])


def nearest(
    queries: np.ndarray, thumbs: np.ndarray, among: np.ndarray, prepare: Prepare, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest to each query of the thumbnails whose numbers are `among`, int64 (m,).

    Squared distances, float32 (n, k), nearest first, and numbers, int64 (n, k). Only a block of thumbnails is ever
    prepared at a time. Where there are fewer than k, distances are infinite and numbers -1.
    """
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    numbers = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(among), _BLOCK):
        some = among[start : start + _BLOCK]
        block = prepare(thumbs[some])
        for rows in (slice(at, at + _BLOCK) for at in range(0, len(queries), _BLOCK)):
            found, which = _within(queries[rows], block, min(k, len(block)))
            distances[rows], numbers[rows] = _merged(distances[rows], numbers[rows], found, some[which], k)
    return distances, numbers


def _merged(
    distances: np.ndarray, numbers: np.ndarray, found: np.ndarray, which: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    both, names = np.concatenate([distances, found], axis=1), np.concatenate([numbers, which], axis=1)
    order = np.argsort(both, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(both, order, axis=1), np.take_along_axis(names, order, axis=1)


def _within(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError:
        return by_numpy(queries, block, k)
    distances, numbers = faiss.knn(queries, block, k)
    return distances, numbers


def by_numpy(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same without faiss: |a - b|² = |a|² + |b|² - 2 a·b, the largest part chosen before it is sorted."""
    squares = np.einsum("ij,ij->i", block, block)
    distances = np.empty((len(queries), k), dtype=np.float32)
    numbers = np.empty((len(queries), k), dtype=np.int64)
    for rows in (slice(at, at + 1024) for at in range(0, len(queries), 1024)):
        some = queries[rows]
        found = np.einsum("ij,ij->i", some, some)[:, None] + squares - 2 * (some @ block.T)
        near = np.argpartition(found, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(found, near, axis=1)
        order = np.argsort(close, axis=1, kind="stable")
        distances[rows] = np.maximum(np.take_along_axis(close, order, axis=1), 0)
        numbers[rows] = np.take_along_axis(near, order, axis=1)
    return distances, numbers
