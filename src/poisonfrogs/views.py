"""What a pipeline does to a picture between its file and the network, and the differentiable twin of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import CenterCropOrPad, MaybeToTensor, ResizeKeepRatio
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from poisonfrogs.types import InputError

Transform = Callable[[Image.Image], Tensor]  # RGB picture -> normalised (3, H, W)
_TWINS = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class View:
    """The differentiable twin of an evaluation transform: resize, centre crop, normalise.

    It differs from the library's own only in that it does not round to 8 bits, which Pillow does
    after each direction of a resize.
    """

    resize: int | tuple[int, int]  # the shortest side, or (height, width)
    fit: str = "stretch"  # how a picture meets a given (height, width): stretch, or its shape kept: cover | contain
    crop: tuple[int, int] | None  # (height, width)
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)  # beyond the edge of a picture smaller than the crop, in [0, 1]
    interpolation: str  # bilinear | bicubic, with antialiasing, as Pillow does it
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, h, w) or (n, 3, h, w) in [0, 1] -> normalised (3, H, W) or (n, 3, H, W)."""
        height, width = self.resized(*picture.shape[-2:])
        rows_first = _rows_first(*picture.shape[-2:], height, width, self.interpolation)
        seen = _resized(picture, height, width, self.interpolation, rows_first)
        if self.crop:
            fill = _column(self.fill, seen)
            seen = T.functional.center_crop(seen - fill, list(self.crop)) + fill
        return (seen - _column(self.mean, seen)) / _column(self.std, seen)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size of a picture after the resize."""
        if isinstance(self.resize, int):
            # torchvision's rule: the long side is cut down to an integer
            short, long = min(height, width), max(height, width)
            other = int(self.resize * long / short)
            return (self.resize, other) if height <= width else (other, self.resize)
        if self.fit == "stretch":
            return self.resize
        ratios = height / self.resize[0], width / self.resize[1]
        ratio = max(ratios) if self.fit == "contain" else min(ratios)
        return round(height / ratio), round(width / ratio)


def twin(transform: Any) -> View:
    """The differentiable twin of a library's evaluation transform, read off the transform itself.

    Raises InputError where a step has no twin.
    """
    if isinstance(transform, ImageClassification):  # torchvision's presets
        transform = T.Compose(
            [
                T.Resize(transform.resize_size, transform.interpolation),
                T.CenterCrop(transform.crop_size),
                T.ToTensor(),
                T.Normalize(transform.mean, transform.std),
            ]
        )
    found: dict[str, Any] = {"crop": None}
    for step in transform.transforms:
        found.update(_read(step))
    return View(**found)


def _read(step: Any) -> dict[str, Any]:
    if isinstance(step, (T.Resize, ResizeKeepRatio)) and step.interpolation in _TWINS:
        size = step.size if isinstance(step.size, int) else tuple(step.size)
        resize = {"resize": size if isinstance(size, int) or len(size) > 1 else size[0]}
        if isinstance(step, T.Resize) and step.max_size is None:
            return resize | {"interpolation": _TWINS[step.interpolation]}
        if isinstance(step, ResizeKeepRatio) and step.longest in (0, 1):
            fit = "contain" if step.longest else "cover"
            return resize | {"interpolation": _TWINS[step.interpolation], "fit": fit}
    if isinstance(step, CenterCropOrPad):
        colour = [step.fill] * 3 if isinstance(step.fill, int) else step.fill
        return {"crop": tuple(step.size), "fill": tuple(value / 255 for value in colour)}
    if isinstance(step, T.CenterCrop):
        return {"crop": tuple(step.size)}
    if isinstance(step, T.Normalize):
        return {"mean": _numbers(step.mean), "std": _numbers(step.std)}
    if isinstance(step, (T.ToTensor, MaybeToTensor)):
        return {}
    said = re.sub(r"\s+", " ", str(step))[:120]
    raise InputError(f"the model's own view has a step with no differentiable twin ({said}); try --view squash")


def squash(size: int, mean: Any, std: Any) -> T.Compose:
    """The whole picture resized to a square, whatever its shape."""
    return T.Compose(
        [T.Resize((size, size), InterpolationMode.BICUBIC), T.ToTensor(), T.Normalize(_numbers(mean), _numbers(std))]
    )


def _resized(picture: Tensor, height: int, width: int, interpolation: str, rows_first: bool) -> Tensor:
    """One direction after the other, cut to [0, 1] after each, as Pillow does it."""
    if rows_first:
        return _stretched(_stretched(picture, width, interpolation).mT, height, interpolation).mT
    return _stretched(_stretched(picture.mT, height, interpolation).mT, width, interpolation)


@lru_cache(maxsize=4096)
def _rows_first(h: int, w: int, height: int, width: int, interpolation: str) -> bool:
    """Whether Pillow stretches the rows before the columns.

    It depends on its version and on the sizes, and where a bicubic curve overshoots, and is cut, it
    makes up to 30 of 255 steps of difference. So it is asked, with hard edges.
    """
    if interpolation == "bilinear" or h == height or w == width:
        return True
    edges = 255 * np.random.default_rng(0).integers(0, 2, (h, w, 3), dtype=np.uint8)
    theirs = T.functional.to_tensor(Image.fromarray(edges).resize((width, height), Image.Resampling.BICUBIC))
    ours = [_resized(T.functional.to_tensor(edges), height, width, interpolation, first) for first in (False, True)]
    errors = [float((one - theirs).abs().mean()) for one in ours]
    return errors[True] <= errors[False]


def _stretched(rows: Tensor, size: int, interpolation: str) -> Tensor:
    """(..., w) -> (..., size) in [0, 1]."""
    if rows.shape[-1] == size:
        return rows
    weights = _weights(rows.shape[-1], size, interpolation, rows.dtype, rows.device)
    return (rows @ weights).clamp(0, 1)


@lru_cache(maxsize=64)
def _weights(length: int, size: int, interpolation: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length, size), what a resize multiplies each row by: faster than the resize itself, forth and back."""
    every = torch.eye(length, dtype=dtype, device=device)[None, None]
    return F.interpolate(every, (length, size), mode=interpolation, antialias=True)[0, 0]


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in np.atleast_1d(values))  # one number stands for all
