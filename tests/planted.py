"""Copies of pictures, changed in ways that are known."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

EPS = 16


def perturbed(image: Image.Image, seed: int, eps: int = EPS) -> Image.Image:
    """Every pixel moved by up to `eps` levels: half of them by coarse patches, as attacks through a resize do."""
    chance = np.random.default_rng(seed)
    pixels = np.asarray(image).astype(int)
    coarse = np.kron(
        chance.integers(-eps, eps + 1, (8, 8, 3)), np.ones((-(-pixels.shape[0] // 8), -(-pixels.shape[1] // 8), 1))
    )
    fine = chance.integers(-eps, eps + 1, pixels.shape)
    change = np.where(chance.random(pixels.shape) < 0.5, coarse[: pixels.shape[0], : pixels.shape[1]], fine)
    return Image.fromarray(np.clip(pixels + change, 0, 255).astype(np.uint8))


def watermarked(base: Image.Image, other: Image.Image, opacity: float = 0.3) -> Image.Image:
    return Image.blend(base, other.resize(base.size, Image.Resampling.BICUBIC), opacity)


def jpeg(image: Image.Image, quality: int, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def png(image: Image.Image, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def mirror(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image)
