"""One picture between its file and its pixels: decoded strictly, converted aloud, stored with its mark."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from poisonfrogs.types import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MARK = "poisonfrogs: a crafted clean-label poison, made to measure a training pipeline. Do not train on it."
_ORIENTATION = 0x0112


class Unreadable(Exception):
    """A picture that cannot be decoded; the message says why."""


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
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                return _to_rgb(image)
        except Image.UnidentifiedImageError:
            raise Unreadable(f"not a picture in one of {', '.join(FORMATS)}") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise Unreadable("a decompression bomb: far more pixels than a photograph") from None
        except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
            raise Unreadable(f"{type(error).__name__}: {error}") from None


def _to_rgb(image: Image.Image) -> Decoded:
    said = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        said.append("animated: first frame taken")
        image.seek(0)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        said.append("rotated as its EXIF says")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        said.append("16-bit scaled to 8")
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise Unreadable("pixels that are not finite numbers")
        # modes I and F do not say how many bits their file had
        top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
        image = Image.fromarray(np.clip(np.rint(values / top * 255), 0, 255).astype(np.uint8))
    elif image.mode not in ("RGB", "L"):
        said.append(f"{'palette' if image.mode in ('P', 'PA') else image.mode} converted to RGB")
    return Decoded(image.convert("RGB"), tuple(said))


def encode(pixels: np.ndarray, store: str) -> bytes:
    """Encode uint8 (h, w, 3) as `png` or `jpeg:Q`, with the mark that says it was crafted."""
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if store == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("poisonfrogs", MARK)
        image.save(out, "PNG", pnginfo=text, compress_level=6)
    else:
        image.save(out, "JPEG", quality=jpeg_quality(store), comment=MARK.encode("ascii"))
    return out.getvalue()


def jpeg_quality(store: str) -> int:
    """The Q of `jpeg:Q`.

    >>> jpeg_quality("jpeg:90")
    90
    """
    kind, _, quality = store.partition(":")
    if kind != "jpeg" or not quality.isdigit() or not 1 <= int(quality) <= 100:
        raise InputError(
            f"--store {store!r} is not a way to store a picture; expected png, or jpeg:Q with Q from 1 to 100"
        )
    return int(quality)


def suffix(store: str) -> str:
    """The file name ending for a way to store pictures."""
    return ".png" if store == "png" else ".jpg"
