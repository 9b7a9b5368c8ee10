"""What happens to a stored picture before the view: JPEG as the encoder has it, crops, and how they are asked for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from poisonfrogs.data import load
from poisonfrogs.pictures import encode
from poisonfrogs.robust import LEAST, Robust, cropped, jpeg, robust
from poisonfrogs.types import InputError


def picture() -> np.ndarray:
    return np.asarray(load(Path("frogs-and-planes")).train[3])


@pytest.mark.parametrize("quality", [50, 75, 90, 95, 100])
def test_jpeg_is_the_decoded_file_byte_for_byte(quality: int) -> None:
    pixels = picture()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(file))
    ours = jpeg(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, quality)
    assert np.array_equal((ours * 255).permute(1, 2, 0).numpy(), (theirs.astype(np.float32) / 255) * 255)
    assert np.array_equal((ours * 255).round().permute(1, 2, 0).numpy(), theirs)


def test_its_gradient_passes_as_if_nothing_had_happened() -> None:
    x = (torch.from_numpy(picture().copy()).permute(2, 0, 1) / 255).requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((jpeg(x, 80) * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_what_is_stored_as_jpeg_is_what_was_crafted_through() -> None:
    pixels = picture()
    stored = np.asarray(Image.open(io.BytesIO(encode(pixels, "jpeg:85"))))  # with its mark
    seen = jpeg(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, 85)
    assert np.array_equal((seen * 255).round().permute(1, 2, 0).numpy(), stored)


def test_looks_are_drawn_from_the_whole_range_and_follow_the_generator() -> None:
    x = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    both = Robust(qualities=(75, 95), crop=True)
    seen = [[look(x) for _ in range(60)] for look in (both.looks(torch.Generator().manual_seed(s)) for s in (0, 0, 1))]
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
    heights = {one.shape[1] for one in seen[0]}
    assert min(heights) >= LEAST * 40
    assert heights >= {33, 36, 39}
    only = Robust(qualities=(90, 91)).looks(torch.Generator().manual_seed(0))
    drawn = [tuple(only(x).flatten().tolist()) for _ in range(200)]
    plain = tuple(x.flatten().tolist())
    assert set(drawn) == {tuple(jpeg(x, quality).flatten().tolist()) for quality in (90, 91)} | {plain}
    assert 30 < drawn.count(plain) < 70  # 50 expected, with a deviation of 6


def test_the_extremes_are_both_ends_and_the_picture_itself() -> None:
    x = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    assert [torch.equal(look(x), x) for look in Robust().extremes()] == [True]
    plain, low, high = Robust(qualities=(75, 95)).extremes()
    assert torch.equal(plain(x), x)
    assert torch.equal(low(x), jpeg(x, 75))
    assert torch.equal(high(x), jpeg(x, 95))
    four = Robust(qualities=(90, 90), crop=True).extremes()
    assert [tuple(look(x).shape) for look in four] == [(3, 40, 60), (3, 40, 60), (3, 32, 48), (3, 32, 48)]
    assert torch.equal(four[3](x), jpeg(x, 90)[:, 4:36, 6:54])


def test_nothing_asked_for_is_nothing_done() -> None:
    x = torch.rand(3, 8, 8)
    assert robust(None).looks(torch.Generator())(x) is x


def test_a_crop_of_a_picture_of_one_pixel_is_that_pixel() -> None:
    assert cropped(torch.ones(3, 1, 1), LEAST, 1, 1).shape == (3, 1, 1)


@pytest.mark.parametrize(
    "text", ["jpg:90", "jpeg", "jpeg:", "jpeg:95-75", "jpeg:0-5", "jpeg:75-101", "crop:3", "jpeg:75,jpeg:80", "x"]
)
def test_what_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(InputError, match=r"--robust .* is unknown; expected jpeg:LOW-HIGH"):
        robust(text)
