"""What a pipeline does to a picture between its file and the network, and the differentiable twin of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from poisonfrogs.types import InputError

Transform = Callable[[Image], Tensor]  # RGB picture -> normalised (3, H, W)
_TWINS = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class View:
    """The differentiable twin of an evaluation transform: resize, centre crop, normalise.

    It differs from the library's own only in that it does not round to 8 bits after resizing.
    """

    resize: int | tuple[int, int]  # the shortest side, or (height, width)
    crop: tuple[int, int] | None  # (height, width)
    interpolation: str  # bilinear | bicubic, with antialiasing, as Pillow does it
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, h, w) in [0, 1] -> normalised (3, H, W)."""
        height, width = self._resized(*picture.shape[1:])
        seen = picture[None]
        if (height, width) != tuple(picture.shape[1:]):
            seen = F.interpolate(seen, (height, width), mode=self.interpolation, antialias=True).clamp(0, 1)
        seen = T.functional.center_crop(seen, list(self.crop)) if self.crop else seen
        shape = (1, -1, 1, 1)
        mean, std = (torch.tensor(value).to(picture).view(shape) for value in (self.mean, self.std))
        normalised: Tensor = (seen - mean) / std
        return normalised[0]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        # torchvision's rule: the long side is cut down to an integer
        short, long = min(height, width), max(height, width)
        other = int(self.resize * long / short)
        return (self.resize, other) if height <= width else (other, self.resize)


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
        if isinstance(step, T.Resize) and step.interpolation in _TWINS and step.max_size is None:
            size = step.size if isinstance(step.size, int) else tuple(step.size)
            resize = size[0] if not isinstance(size, int) and len(size) == 1 else size
            found.update(resize=resize, interpolation=_TWINS[step.interpolation])
        elif isinstance(step, T.CenterCrop):
            found["crop"] = tuple(step.size)
        elif isinstance(step, T.Normalize):
            found.update(mean=_numbers(step.mean), std=_numbers(step.std))
        elif type(step).__name__ not in ("ToTensor", "MaybeToTensor"):
            raise InputError(f"the model's own view has a step with no differentiable twin ({step}); try --view squash")
    return View(**found)


def squash(size: int, mean: Any, std: Any) -> T.Compose:
    """The whole picture resized to a square, whatever its shape."""
    return T.Compose(
        [T.Resize((size, size), InterpolationMode.BICUBIC), T.ToTensor(), T.Normalize(_numbers(mean), _numbers(std))]
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
