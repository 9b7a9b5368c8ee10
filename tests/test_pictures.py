"""Decoding against literal bytes and the file formats' own definitions; storing without loss."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from poisonfrogs.pictures import (
    EVASION_MARK,
    FORMATS,
    MARK,
    SUFFIXES,
    Unreadable,
    decode,
    encode,
    encoded_like,
    jpeg_quality,
    mark_of,
    suffix,
)
from poisonfrogs.types import InputError


def png(width: int, height: int, depth: int, colour: int, scanlines: bytes, extra: bytes = b"") -> bytes:
    """A PNG by the specification: colour 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(scanlines))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def palette(*colours: bytes) -> bytes:
    data = b"".join(colours)
    return struct.pack(">I", len(data)) + b"PLTE" + data + struct.pack(">I", zlib.crc32(b"PLTE" + data))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


DECODED = {
    "png rgb": (png(2, 1, 8, 2, b"\0\xff\x00\x01\x10\x20\x30"), [(255, 0, 1), (16, 32, 48)], ()),
    "png grey": (png(2, 1, 8, 0, b"\0\x00\xc8"), [(0, 0, 0), (200, 200, 200)], ()),
    "png grey of 1 bit": (png(2, 1, 1, 0, b"\0\x40"), [(0, 0, 0), (255, 255, 255)], ("1 converted to RGB",)),
    # 0, 0x8080 = 128 * 257 and 0xffff = 255 * 257 have exact counterparts; 0x0102 = 258 is nearest to 1 * 257
    "png grey of 16 bits": (
        png(4, 1, 16, 0, b"\0\x00\x00\x80\x80\xff\xff\x01\x02"),
        [(0, 0, 0), (128, 128, 128), (255, 255, 255), (1, 1, 1)],
        ("16-bit scaled to 8",),
    ),
    # a dark picture: its depth must come from the file, not from its brightest pixel
    "png grey of 16 bits, dark": (png(1, 1, 16, 0, b"\0\x00\xff"), [(1, 1, 1)], ("16-bit scaled to 8",)),
    "png rgb of 16 bits": (png(1, 1, 16, 2, b"\0\x80\x80\x00\x00\xff\xff"), [(128, 0, 255)], ("16-bit scaled to 8",)),
    "pgm of 16 bits": (b"P5 2 1 65535\n\x80\x80\x00\xff", [(128, 128, 128), (1, 1, 1)], ("16-bit scaled to 8",)),
    "ppm": (b"P6 1 1 255\n\x07\x08\x09", [(7, 8, 9)], ()),
    "png palette": (
        png(2, 1, 8, 3, b"\0\x01\x00", palette(b"\x01\x02\x03", b"\xf0\xe0\xd0")),
        [(240, 224, 208), (1, 2, 3)],
        ("palette converted to RGB",),
    ),
    "png grey + alpha": (png(1, 1, 8, 4, b"\0\x50\x80"), [(80, 80, 80)], ("LA converted to RGB",)),
    "png rgba": (png(1, 1, 8, 6, b"\0\x0a\x14\x1e\x00"), [(10, 20, 30)], ("RGBA converted to RGB",)),
    "bmp": (saved(Image.new("RGB", (1, 1), (9, 8, 7)), "BMP"), [(9, 8, 7)], ()),
    "cmyk": (saved(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [(0, 255, 255)], ("CMYK converted to RGB",)),
    "tiff of 16 bits": (
        saved(Image.fromarray(np.array([[0x8080, 0x00FF]], dtype=np.uint16)), "TIFF"),
        [(128, 128, 128), (1, 1, 1)],
        ("16-bit scaled to 8",),
    ),
}


@pytest.mark.parametrize("name", DECODED)
def test_literal_bytes_become_the_pixels_the_format_says(name: str) -> None:
    content, pixels, said = DECODED[name]
    decoded = decode(content)
    assert decoded.image.mode == "RGB"
    assert [tuple(pixel) for pixel in np.asarray(decoded.image)[0].tolist()] == pixels
    assert decoded.conversions == said


def test_a_jpeg_in_cmyk_is_converted_and_said() -> None:
    decoded = decode(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(np.asarray(decoded.image).astype(int) - (255, 0, 0)).max() <= 2
    assert decoded.conversions == ("CMYK converted to RGB",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert set(decoded.image.get_flattened_data()) == {(250, 0, 0)}
    assert "animated: first frame taken" in decoded.conversions


def test_a_phone_s_jpeg_of_two_pictures_is_not_an_animation() -> None:
    picture = Image.new("RGB", (8, 8), (9, 9, 9))
    content = saved(picture, "MPO", save_all=True, append_images=[picture])
    assert decode(content).conversions == ()


# what each orientation means: (first row, first column) of the stored picture, in EXIF 2.3's words
ROTATED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ROTATED)
def test_exif_rotations_are_done_and_said(orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    decoded = decode(saved(Image.fromarray(stored), "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(np.asarray(decoded.image), ROTATED[orientation](stored))
    assert decoded.conversions == ("rotated as its EXIF says",)


def test_sixteen_bits_and_rotated_at_once() -> None:
    image = Image.fromarray(np.array([[0, 0x8080]], dtype=np.uint16))
    decoded = decode(saved(image, "PNG", exif=exif(6)))
    assert np.asarray(decoded.image)[:, 0, 0].tolist() == [0, 128]
    assert decoded.conversions == ("rotated as its EXIF says", "16-bit scaled to 8")


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_exif_that_asks_for_no_rotation_is_not_called_one(orientation: int) -> None:
    assert decode(saved(Image.new("RGB", (2, 2)), "PNG", exif=exif(orientation))).conversions == ()


def test_a_broken_exif_does_not_cost_the_picture() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\1" * 30
    assert decode(saved(Image.new("RGB", (2, 2)), "JPEG", exif=broken)).image.size == (2, 2)


WHOLE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
REFUSED = {
    "zero bytes": (b"", "zero bytes"),
    "a truncated jpeg": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "a jpeg's header alone": (WHOLE[:64], "(?i)truncated|not a picture"),
    "a truncated png": (encode(np.full((64, 64, 3), 7, np.uint8), "png")[:-40], "(?i)truncated|broken|incomplete"),
    "a png bomb": (png(60000, 60000, 8, 2, b"\0"), "decompression bomb"),
    # between Pillow's limit, where it only warns, and twice that, where it refuses
    "a smaller png bomb": (png(10000, 10000, 8, 2, b"\0"), "decompression bomb"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not a picture in one of"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", "not a picture in one of"),
    "a web page": (b"<!doctype html><title>404</title>", "not a picture in one of"),
    "a pickle": (b"\x80\x04K\x07.", "not a picture in one of"),
    "integers of 32 bits": (saved(Image.fromarray(np.zeros((2, 2), np.int32)), "TIFF"), "32 bits"),
    "floating point": (saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "32 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_picture_is_refused_with_the_reason(name: str) -> None:
    content, why = REFUSED[name]
    with pytest.raises(Unreadable, match=why):
        decode(content)
    with pytest.raises(Unreadable) as again:  # reasons go into plan.json: the same every time
        decode(content)
    assert "0x" not in str(again.value)


def test_every_prefix_of_a_picture_is_refused_as_unreadable_and_nothing_else() -> None:
    content = encode(np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8), "png")
    for end in range(0, len(content) - 20, 7):
        with pytest.raises(Unreadable):
            decode(content[:end])


def test_bombs_are_refused_in_threads_too_and_the_filters_are_as_before() -> None:
    contents = [REFUSED["a smaller png bomb"][0], DECODED["png rgb"][0]] * 40

    def refused(content: bytes) -> bool:
        try:
            decode(content)
        except Unreadable:
            return True
        return False

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(refused, contents)) == [True, False] * 40
    assert list(warnings.filters) == before


@pytest.mark.parametrize("orientation", ROTATED)
def test_a_jpeg_like_another_lies_in_the_file_as_that_does(orientation: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(90, 120, (16, 32, 3), dtype=np.uint8))
    content = saved(picture, "JPEG", quality=80, subsampling=1, exif=exif(orientation))
    upright = decode(saved(picture, "PNG", exif=exif(orientation))).image
    again = encoded_like(content, upright, MARK)
    assert again
    assert mark_of(again) == MARK
    np.testing.assert_array_equal(np.asarray(decode(again).image), np.asarray(decode(content).image))


def test_a_jpeg_like_a_grey_one_is_grey() -> None:
    content = saved(Image.new("L", (8, 8), 90), "JPEG", quality=80)
    again = encoded_like(content, Image.new("RGB", (8, 8), (90, 10, 200)))
    assert again
    pixels = np.asarray(decode(again).image)
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("store", ["png", "jpeg:80"])
@pytest.mark.parametrize("mark", [MARK, EVASION_MARK, None])
def test_the_mark_is_read_again(store: str, mark: str | None) -> None:
    assert mark_of(encode(np.zeros((8, 8, 3), np.uint8), store, mark)) == mark


@pytest.mark.parametrize(("height", "width"), [(1, 1), (13, 7), (32, 32)])
def test_png_is_stored_without_loss_and_marked(height: int, width: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stored = encode(pixels, "png")
    np.testing.assert_array_equal(np.asarray(decode(stored).image), pixels)
    with Image.open(io.BytesIO(stored)) as image:
        assert image.text == {"poisonfrogs": MARK}
    assert stored == encode(pixels, "png")


def test_jpeg_is_stored_at_its_quality_and_marked() -> None:
    pixels = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    for quality in (60, 95):
        with Image.open(io.BytesIO(encode(pixels, f"jpeg:{quality}"))) as image:
            assert image.format == "JPEG"
            assert image.info["comment"] == MARK.encode()
            # the standard luminance table starts with 16, scaled by (200 - 2 Q) %, or 5000 / Q % below 50
            assert image.quantization[0][0] == max(1, (16 * (200 - 2 * quality) + 50) // 100)
    assert np.abs(np.asarray(decode(encode(pixels, "jpeg:95")).image).astype(int) - pixels).max() <= 3


@pytest.mark.parametrize(
    "store", ["jpeg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:-5", "jpeg:9.5", "jpeg:²", "webp", "JPEG:90", ""]
)
def test_other_ways_to_store_are_refused(store: str) -> None:
    with pytest.raises(InputError, match="expected png, or jpeg:Q"):
        jpeg_quality(store)


def test_what_other_loaders_train_on_is_not_passed_over() -> None:
    """Hugging Face's imagefolder takes what Pillow knew by name when its list was written, torchvision nine names."""
    known = Image.registered_extensions()
    readable = {name for name, kind in known.items() if kind in FORMATS}
    opened = {name for name, kind in known.items() if kind in Image.OPEN}
    no_pictures = {".bufr", ".grib", ".h5", ".hdf", ".mpg", ".mpeg"}  # Pillow knows them by sight and decodes none
    assert readable | opened - no_pictures | set(IMG_EXTENSIONS) <= set(SUFFIXES)


def test_names_of_stored_pictures_are_names_of_pictures() -> None:
    assert {suffix("png"), suffix("jpeg:90")} == {".png", ".jpg"} <= set(SUFFIXES)
