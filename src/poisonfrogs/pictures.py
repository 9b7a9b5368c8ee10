"""One picture between its file and its pixels: decoded strictly, converted aloud, stored with its mark."""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from poisonfrogs.types import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    # pictures too, of no format in FORMATS, on which other loaders train: reported as skipped rather than passed over
    *(".svg", ".eps", ".ps", ".heic", ".heif", ".avif", ".avifs", ".jxl", ".psd", ".qoi", ".dib", ".ico", ".icns"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".tga", ".icb", ".vda", ".vst", ".cur", ".pcx", ".dcx", ".dds"),
    *(".blp", ".fit", ".fits", ".fli", ".flc", ".ftc", ".ftu", ".gbr", ".im", ".iim", ".msp", ".pcd", ".pxr", ".bw"),
    *(".rgb", ".rgba", ".sgi", ".ras", ".wmf", ".emf", ".xbm", ".xpm"),
)
MARK = "poisonfrogs: a crafted clean-label poison, made to measure a training pipeline. Do not train on it."
EVASION_MARK = "poisonfrogs: a crafted evasion example, made to show what a poison is not. Do not train on it."
_ORIENTATION = 0x0112
# how an upright picture lies in a file of that orientation (EXIF 2.32, 4.6.4)
_LAID = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Unreadable(Exception):  # noqa: N818  (an outcome, not a fault)
    """A picture that cannot be decoded; the message says why."""


class Gone(Unreadable, InputError):  # noqa: N818
    """A file that is not what it was when the data were listed, or not there: that is no property of the picture."""


@dataclass(frozen=True)
class Decoded:
    """An RGB picture of 8 bits a channel, and what had to be done to get there."""

    image: Image.Image
    conversions: tuple[str, ...] = ()


def decode(content: bytes) -> Decoded:
    """Decode the bytes of a picture file.

    Raises Unreadable for anything but a whole picture in one of FORMATS, decompression bombs included.
    """
    if not content:
        raise Unreadable("zero bytes")
    with _strictly:
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                deep = _deep(image)
                image.load()
                return _to_rgb(image, deep)
        except UnidentifiedImageError:
            raise Unreadable(f"not a picture in one of {', '.join(FORMATS)}") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise Unreadable("a decompression bomb: far more pixels than a photograph") from None
        except (Unreadable, MemoryError):  # no memory is no property of the picture
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
            raise Unreadable(f"{type(error).__name__}: {error}") from None


class _Strictly:
    """Bombs are errors and other warnings silent while any thread decodes.

    `warnings.catch_warnings` alone is not safe in threads: the first to come in enters it, the last to go leaves it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.filters.__exit__(None, None, None)


_strictly = _Strictly()


def _deep(image: Image.Image) -> bool:
    """Whether the file holds 16 bits a channel, which the mode alone does not tell."""
    for tile in getattr(image, "tile", ()):
        kind = str(tile.args)
        if ";16" in kind and ";16S" not in kind:
            return True
        if tile.codec_name == "ppm" and tile.args[1] > 255:
            return True
    return False


def _to_rgb(image: Image.Image, deep: bool) -> Decoded:
    said = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        said.append("animated: first frame taken")
        image.seek(0)
    if image.getexif().get(_ORIENTATION) in _LAID:
        said.append("rotated as its EXIF says")
        image = ImageOps.exif_transpose(image)
    if deep:
        said.append("16-bit scaled to 8")
    if image.mode.startswith("I") or image.mode == "F":
        if not deep:
            raise Unreadable("pixels of 32 bits: no telling which value is white")
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float64) / 257).astype(np.uint8))
    elif image.mode not in ("RGB", "L"):
        said.append(f"{'palette' if image.mode in ('P', 'PA') else image.mode} converted to RGB")
    return Decoded(image.convert("RGB"), tuple(said))


def encode(pixels: np.ndarray, store: str = "png", mark: str | None = MARK) -> bytes:
    """Encode uint8 (h, w, 3) as `png` or `jpeg:Q`, with the mark that says it was crafted (None: it was not)."""
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if store == "png":
        text = PngImagePlugin.PngInfo()
        if mark:
            text.add_text("poisonfrogs", mark)
        image.save(out, "PNG", pnginfo=text, compress_level=6)
    else:
        image.save(out, "JPEG", quality=jpeg_quality(store), comment=(mark or "").encode("ascii"))
    return out.getvalue()


def encoded_like(content: bytes | None, image: Image.Image, mark: str | None = None) -> bytes | None:
    """The picture as JPEG, with the tables, the subsampling and the orientation of the file `content`.

    None where that is no JPEG in colour or grey.
    """
    if not content or not content.startswith(b"\xff\xd8"):
        return None
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        if file.format != "JPEG" or not isinstance(file, JpegImagePlugin.JpegImageFile):
            return None
        if file.mode not in ("RGB", "L"):
            return None
        tables, sampling = file.quantization, JpegImagePlugin.get_sampling(file)
        turn, image = file.getexif().get(_ORIENTATION, 1), image.convert(file.mode)
    exif = Image.Exif()
    if turn in _LAID:  # blocks and subsampling are those of the picture as it lies in the file
        exif[_ORIENTATION] = turn
        image = image.transpose(_LAID[turn])
    out = io.BytesIO()
    try:
        image.save(
            out,
            "JPEG",
            qtables=tables,
            subsampling=max(sampling, 0),
            comment=(mark or "").encode("ascii"),
            exif=exif if exif else b"",
        )
    except (ValueError, TypeError, OSError):  # tables that can be read and not written, such as those of 16 bits
        return None
    return out.getvalue()


def mark_of(content: bytes) -> str | None:
    """What a picture that was crafted here says of itself, whatever it was stored as; None for any other."""
    return next((mark for mark in (MARK, EVASION_MARK) if mark.encode("ascii") in content), None)


def jpeg_quality(store: str) -> int:
    """The Q of `jpeg:Q`.

    >>> jpeg_quality("jpeg:90")
    90
    """
    kind, _, quality = store.partition(":")
    if kind != "jpeg" or not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise InputError(
            f"--store {store!r} is not a way to store a picture; expected png, or jpeg:Q with Q from 1 to 100"
        )
    return int(quality)


def suffix(store: str) -> str:
    """The file name ending for a way to store pictures."""
    return ".png" if store == "png" else ".jpg"
