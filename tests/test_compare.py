"""Two pictures at full resolution, changed in known ways."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from planted import jpeg, mirror, opened, perturbed, png, watermarked
from poisonfrogs import compare, data
from poisonfrogs.images import Images
from poisonfrogs.pictures import decode


@pytest.fixture(scope="module")
def some() -> Images:
    return data.load("frogs-and-planes").train


def kind(picture: Image.Image, content: bytes | None, known: Image.Image, mirrored: bool = False) -> str | None:
    found = compare.compare(picture, content, known, mirrored)
    return found.kind if found else None


def image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_the_same_pixels(some: Images) -> None:
    assert kind(some[0], png(some[0]), some[0]) == "identical pixels"
    assert kind(mirror(some[0]), None, some[0], True) == "identical pixels"
    assert kind(some[0], None, some[1]) is None


@pytest.mark.parametrize("quality", [20, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_encoding_alone_is_recognised(quality: int, subsampling: int, some: Images) -> None:
    for i in range(5):
        content = jpeg(some[i], quality, subsampling=subsampling)
        assert kind(opened(content), content, some[i]) == "re-encoded"
        content = jpeg(mirror(some[i]), quality, subsampling=subsampling)
        assert kind(opened(content), content, some[i], True) == "re-encoded"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_encoding_alone_is_recognised_as_a_phone_stores_it(orientation: int, some: Images) -> None:
    """Blocks and subsampling are those of the picture before it is turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(5):
        content = jpeg(some[i].resize((40, 24)), 85, subsampling=1, exif=exif)
        upright = decode(png(some[i].resize((40, 24)), exif=exif)).image
        assert kind(decode(content).image, content, upright) == "re-encoded"


def test_a_grey_jpeg_is_recognised(some: Images) -> None:
    content = jpeg(some[0].convert("L"), 80)
    assert kind(decode(content).image, content, some[0]) == "re-encoded"
    assert kind(decode(content).image, content, some[0].convert("L").convert("RGB")) == "re-encoded"


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (40, 20)])
@pytest.mark.parametrize("how", list(Image.Resampling))
def test_resizing_alone_is_recognised(size: tuple[int, int], how: Image.Resampling, some: Images) -> None:
    resized = some[0].resize(size, how)
    assert kind(resized, png(resized), some[0]) == "resized"
    content = jpeg(resized, 80)
    assert kind(opened(content), content, some[0]) == "resized"


@pytest.mark.parametrize("encode", [png, *(lambda image, q=q: jpeg(image, q) for q in (75, 85, 95))])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_perturbation_is_seen_whatever_it_is_stored_as(encode, mirrored: bool, some: Images) -> None:
    for i in range(20):
        changed = perturbed(some[i], i)
        content = encode(mirror(changed) if mirrored else changed)
        found = compare.compare(opened(content), content, some[i], mirrored)
        assert found
        assert found.kind == "perturbed"
        if encode is png:
            expected = (np.asarray(changed).astype(float) - np.asarray(some[i])) / 255
            assert found.linf == pytest.approx(np.abs(expected).max())
            assert found.rms == pytest.approx(np.sqrt((expected**2).mean()))
            shown = expected[:, ::-1] if mirrored else expected
            assert found.difference == pytest.approx(shown, abs=1e-6)


def test_one_level_in_one_pixel_is_a_perturbation(some: Images) -> None:
    pixels = np.array(some[0])
    pixels[5, 5, 0] ^= 1
    found = compare.compare(image(pixels), png(image(pixels)), some[0], False)
    assert found
    assert (found.kind, round(found.linf * 255)) == ("perturbed", 1)


@pytest.mark.parametrize(("levels", "expected"), [(16, "perturbed"), (19, None)])
def test_what_is_left_has_a_limit_however_lively_the_picture(levels: int, expected: str | None) -> None:
    known = np.random.default_rng(0).integers(30, 226, (32, 32, 3))
    signs = np.indices((32, 32)).sum(0)[..., None] % 2 * 2 - 1  # nothing is left of their means
    assert kind(image(known + levels * signs), None, image(known)) == expected


@pytest.mark.parametrize("opacity", [0.15, 0.3, 0.45])
def test_a_blend_s_opacity_is_that_of_the_truth(opacity: float, some: Images) -> None:
    for i in range(10):
        base, other = some[i], some[600 + i]
        for content in (png(watermarked(base, other, opacity)), jpeg(watermarked(base, other, opacity), 80)):
            found = compare.blend(opened(content), content, base, other, False, False)
            assert found
            assert found.opacity == pytest.approx(opacity, abs=0.03)
        turned = mirror(perturbed(watermarked(base, other, opacity), i))
        found = compare.blend(turned, None, base, other, True, True)
        if found is None:  # a perturbation that is large beside what was blended in
            continue
        assert found.opacity == pytest.approx(opacity, abs=0.1)


def test_a_blend_with_another_picture_is_none(some: Images) -> None:
    blended = watermarked(some[0], some[600])
    assert compare.blend(blended, None, some[0], some[601], False, False) is None
    assert compare.blend(some[0], None, some[0], some[600], False, False) is None
    assert compare.compare(blended, None, some[0], False) is None


def blended(opacity: float, noise: int = 0, blot: int = 0) -> compare.Comparison | None:
    """What is found of two blended pictures of noise, moved by `noise` levels everywhere and by `blot` in one place."""
    chance = np.random.default_rng(0)
    base, other = (image(chance.integers(50, 206, (32, 32, 3))) for _ in range(2))
    pixels = np.asarray(watermarked(base, other, opacity)) + chance.choice([-noise, noise], (32, 32, 3))
    pixels[4:6, 4:6] += blot
    return compare.blend(image(pixels), None, base, other, False, False)


@pytest.mark.parametrize(("opacity", "told"), [(0.04, False), (0.06, True), (0.58, True), (0.62, False)])
def test_the_opacities_that_are_told(opacity: float, told: bool) -> None:
    assert (blended(opacity) is not None) == told


def test_a_blend_leaves_little_everywhere_and_less_than_its_base_alone() -> None:
    assert blended(0.3, blot=28)
    assert blended(0.3, blot=38) is None  # in one place: another object
    assert blended(0.1, noise=4)
    assert blended(0.1, noise=10) is None  # a perturbed base, of which the other picture explains next to nothing


def test_pages_that_are_nearly_blank_are_no_copies() -> None:
    chance = np.random.default_rng(0)
    one, two = (Image.fromarray(chance.integers(250, 256, (32, 32, 3)).astype(np.uint8)) for _ in range(2))
    assert compare.compare(one, None, two, False) is None
    assert kind(one, None, one) == "identical pixels"


def test_another_object_before_the_same_sky_is_no_copy() -> None:
    sky = np.tile(np.linspace(120, 220, 32), (32, 1))[..., None].repeat(3, -1).astype(np.uint8)
    bird, plane = sky.copy(), sky.copy()
    bird[14:16, 14:18] = 40
    plane[13:15, 8:14] = 40
    found = np.sqrt(((bird.astype(float) - plane) ** 2).mean()) / 255
    assert found < compare.LIMIT  # by size alone it would be one
    assert compare.compare(Image.fromarray(bird), None, Image.fromarray(plane), False) is None
    for one, other in ((bird, sky), (sky, bird)):  # darker than it should be, and brighter
        assert compare.compare(Image.fromarray(one), None, Image.fromarray(other), False) is None


def test_tables_that_cannot_be_written_are_passed_over(some: Images) -> None:
    """Tables numbered 2 and 3, as a JPEG may have them: read by Pillow, refused by its encoder."""
    odd = bytearray(jpeg(some[0], 90))
    at = 2
    while odd[at + 1] != 0xDA:  # segments up to the scan
        if odd[at + 1] == 0xDB:
            odd[at + 4] += 2
        if odd[at + 1] == 0xC0:
            for component in range(odd[at + 9]):
                odd[at + 12 + 3 * component] += 2
        at += 2 + int.from_bytes(odd[at + 2 : at + 4], "big")
    picture = decode(bytes(odd)).image
    assert np.array_equal(np.asarray(picture), np.asarray(opened(jpeg(some[0], 90))))
    assert kind(picture, bytes(odd), some[0]) == "perturbed"
    assert compare.blend(picture, bytes(odd), some[0], some[600], False, False) is None
