"""What may happen to a stored picture before the view, JPEG and cropping, and draws of it to craft through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from poisonfrogs.pictures import decode, encode
from poisonfrogs.types import InputError

Look = Callable[[Tensor], Tensor]  # picture (3, h, w) in [0, 1] -> what is left of it, differentiable
PLAIN = 0.25  # share of the looks at a picture that has not been through JPEG
LEAST = 0.8  # of a side that a crop leaves; an evaluation's resize to 256 and crop to 224 leaves .875


@dataclass(frozen=True)
class Robust:
    """Ways in which a stored picture may be changed; none at all is one of them."""

    qualities: tuple[int, int] | None = None  # of JPEG, the lowest and the highest
    crop: bool = False

    def looks(self, generator: torch.Generator) -> Look:
        """A change drawn anew for each picture that it is asked of: any quality, any crop of at least LEAST a side.

        One picture in four is seen without JPEG: a poison must work as it is, too.
        """

        def look(picture: Tensor) -> Tensor:
            if self.qualities and float(torch.rand((), generator=generator)) >= PLAIN:
                low, high = self.qualities
                picture = jpeg(picture, int(torch.randint(low, high + 1, (), generator=generator)))
            if self.crop:
                share, down, across = torch.rand(3, generator=generator).tolist()
                picture = cropped(picture, LEAST + (1 - LEAST) * share, down, across)
            return picture

        return look

    def extremes(self) -> list[Look]:
        """What a poison must withstand before it is believed: the picture as it is, and both ends of each range."""
        found: list[Look] = [lambda picture: picture]
        if self.qualities:
            found += [partial(jpeg, quality=quality) for quality in sorted(set(self.qualities))]
        if self.crop:
            middle = partial(cropped, share=LEAST, down=0.5, across=0.5)
            found += [partial(_both, look, middle) for look in found]
        return found


def robust(text: str | None) -> Robust:
    """What --robust says: `jpeg:Q`, `jpeg:LOW-HIGH`, `crop`, or both with a comma between. Raises InputError.

    >>> robust("jpeg:75-95,crop"), robust("jpeg:90"), robust(None)
    (Robust(qualities=(75, 95), crop=True), Robust(qualities=(90, 90), crop=False), Robust(qualities=None, crop=False))
    """
    parts = text.split(",") if text else []
    found: dict[str, Any] = {}
    for part in parts:
        kind, _, value = part.strip().partition(":")
        low, _, high = value.partition("-")
        if kind == "crop" and not value and "crop" not in found:
            found["crop"] = True
        elif kind == "jpeg" and low.isdecimal() and (high or low).isdecimal() and "qualities" not in found:
            found["qualities"] = int(low), int(high or low)
        else:
            found["qualities"] = 0, 0
            break
    low_high = found.get("qualities", (1, 1))
    if not 1 <= low_high[0] <= low_high[1] <= 100:
        raise InputError(
            f"--robust {text!r} is unknown; expected jpeg:LOW-HIGH with qualities from 1 to 100, crop, "
            "or both as jpeg:75-95,crop"
        )
    return Robust(**found)


class _Jpeg(torch.autograd.Function):
    """Through the real encoder and back. Its derivative is 0 almost everywhere: the straight-through estimate takes it
    for the identity (Bengio et al. 2013)."""

    @staticmethod
    def forward(_: Any, picture: Tensor, quality: int) -> Tensor:
        pixels = (picture.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        stored = decode(encode(pixels, f"jpeg:{quality}", mark=None)).image
        return (
            torch.frombuffer(bytearray(stored.tobytes()), dtype=torch.uint8)
            .view(pixels.shape)
            .permute(2, 0, 1)
            .to(picture)
            / 255
        )

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def jpeg(picture: Tensor, quality: int) -> Tensor:
    """(3, h, w) in [0, 1] -> what is read back from its file of that quality; the gradient passes as if unchanged."""
    stored: Tensor = _Jpeg.apply(picture, quality)
    return stored


def cropped(picture: Tensor, share: float, down: float, across: float) -> Tensor:
    """The part of a picture that is `share` of each side, at `down` and `across` of the way (0 to 1).

    >>> cropped(torch.arange(16.0).view(1, 4, 4), 0.5, 1, 0)
    tensor([[[ 8.,  9.],
             [12., 13.]]])
    """
    height, width = picture.shape[1:]
    tall, wide = max(round(height * share), 1), max(round(width * share), 1)
    top, left = round((height - tall) * down), round((width - wide) * across)
    return picture[:, top : top + tall, left : left + wide]


def _both(first: Look, second: Look, picture: Tensor) -> Tensor:
    return second(first(picture))
