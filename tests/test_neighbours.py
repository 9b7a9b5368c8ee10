"""Small vectors and the exact nearest among them, against plain arithmetic."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from poisonfrogs import data, images, neighbours
from poisonfrogs.images import Images


@pytest.fixture(scope="module")
def some() -> Images:
    return data.load("frogs-and-planes").train.select(range(300))


@pytest.fixture(scope="module")
def thumbs(some: Images) -> np.ndarray:
    return neighbours.thumbnails(some)[0]


def truth(queries: np.ndarray, known: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """In double precision, one by one."""
    distances = np.stack([((known.astype(np.float64) - query) ** 2).sum(1) for query in queries.astype(np.float64)])
    order = distances.argsort(1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), order


@pytest.mark.parametrize("prepare", [neighbours.plain, neighbours.normalised])
@pytest.mark.parametrize("by", ["faiss", "NumPy"])
@pytest.mark.parametrize("block", [1 << 14, 37])
def test_the_nearest_are_exact(
    prepare: neighbours.Prepare, by: str, block: int, thumbs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "NumPy":
        monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    queries = prepare(thumbs[:90])
    among = np.arange(90, len(thumbs))[::2]
    distances, numbers = neighbours.nearest(queries, thumbs, among, prepare, 4)
    expected, order = truth(queries, prepare(thumbs[among]), 4)
    assert np.array_equal(numbers, among[order])
    assert distances == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("by", ["faiss", "NumPy"])
def test_fewer_than_are_asked_for(by: str, thumbs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "NumPy":
        monkeypatch.setitem(sys.modules, "faiss", None)
    distances, numbers = neighbours.nearest(neighbours.plain(thumbs[:3]), thumbs, np.array([4, 7]), neighbours.plain, 4)
    assert sorted(numbers[0].tolist()) == [-1, -1, 4, 7]
    assert np.isinf(distances[:, 2:]).all()
    assert np.isfinite(distances[:, :2]).all()


SHAPES = [(32, 32), (24, 24), (20, 28), (5, 3), (16, 1), (13, 130), (600, 40)]


def pair(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and the same a little changed: what averages can hide least of."""
    rng = np.random.default_rng(seed)
    first = rng.integers(256, size=(*shape, 3), dtype=np.uint8)
    return first, np.clip(first + rng.integers(-40, 41, size=first.shape), 0, 255).astype(np.uint8)


def apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(((first.astype(np.float64) - second) ** 2).mean()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_thumbnails_are_no_further_apart_than_pictures(shape: tuple[int, int]) -> None:
    for seed in range(20):
        first, second = pair(shape, seed)
        small = [neighbours.thumbnail(Image.fromarray(one)) for one in (first, second)]
        assert apart(*small) <= apart(first, second) + 1  # each is rounded
        assert apart(neighbours.averaged(first), neighbours.averaged(second)) <= apart(first, second) + 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_thumbnail_is_a_mean_of_areas_of_a_picture_and_of_its_mirror_image(shape: tuple[int, int]) -> None:
    """Each pixel cut into 16 × 16 equal pieces, of which an area takes as many as another."""
    pixels, _ = pair(shape, 0)
    pieces = pixels.astype(np.float64).repeat(16, 0).repeat(16, 1)
    means = pieces.reshape(16, shape[0], 16, shape[1], 3).mean((1, 3))
    assert np.abs(neighbours.averaged(pixels) - means).max() < 1e-3
    assert np.abs(neighbours.thumbnail(Image.fromarray(pixels)) - means).max() <= 0.501
    assert neighbours.averaged(pixels[:, ::-1]) == pytest.approx(neighbours.averaged(pixels)[:, ::-1], abs=1e-3)


def test_vectors_have_mean_zero_and_length_one_and_a_blank_page_none(thumbs: np.ndarray) -> None:
    vectors = neighbours.normalised(np.concatenate([thumbs[:20], np.full_like(thumbs[:1], 200)]))
    assert vectors.mean(1) == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(vectors[:20], axis=1) == pytest.approx(1, abs=1e-5)
    assert not vectors[20].any()


def test_what_cannot_be_read_has_no_thumbnail(tmp_path) -> None:
    for name, content in {"a.png": b"no picture", "b.png": b"\x89PNG"}.items():
        (tmp_path / name).write_bytes(content)
    made, unreadable = neighbours.thumbnails(images.files([str(tmp_path / "a.png"), str(tmp_path / "b.png")], [0, 0]))
    assert not made.any()
    assert list(unreadable) == [0, 1]


def test_halved_vectors_are_means_of_four_pixels(thumbs: np.ndarray) -> None:
    vectors = neighbours.plain(thumbs)
    side = neighbours.SIDE // 2
    expected = vectors.astype(np.float64).reshape(-1, side, 2, side, 2, 3).mean(axis=(2, 4)).reshape(len(thumbs), -1)
    assert neighbours.halved(vectors) == pytest.approx(expected, abs=1e-6)
    assert neighbours.halved(vectors).dtype == np.float32
