"""Frozen networks that turn pictures into penultimate features: timm, torchvision, or the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Normalize

from poisonfrogs import checkpoints
from poisonfrogs.descent import by_size
from poisonfrogs.frozen import FastGradients, folded
from poisonfrogs.types import Extractor, InputError
from poisonfrogs.views import Transform, View, squash, twin
from poisonfrogs.zoo import fault, resolve

BATCH = 16  # always this many pictures a forward pass: the last bits of a convolution depend on it
ALONE = 1e-3  # of the features' norm: how far chance, and what is asked beside a picture, may move its features


@dataclass(frozen=True, eq=False)
class Net:
    """A frozen extractor with its view: RGB pictures in, penultimate features out."""

    name: str
    body: nn.Module  # normalised (n, 3, H, W) -> features (n, dim)
    transform: Transform  # the library's own evaluation transform
    view: View  # its differentiable twin
    dim: int
    weights: str  # SHA-256 of the tensors
    source: str  # where the weights came from
    device: torch.device

    @cached_property
    def said(self) -> tuple[str, ...]:
        """What it says of a picture of noise, in four digits, which are the same on machines of all kinds."""
        features = self.features([_noise()] * 2)
        return tuple(f"{value:.4g}" for value in (features.mean(), features.std(), features.abs().max()))

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as the pipeline sees them -> float32 (n, dim) on the CPU."""
        return self.forward([self.transform(image) for image in images])

    @torch.inference_mode()
    def forward(self, pixels: Sequence[Tensor]) -> Tensor:
        """Normalised (3, H, W) each -> float32 (n, dim) on the CPU; no row depends on what else is asked for.

        Raises InputError where torch was told to compute in another precision.
        """
        _check_precision(self.device)
        features = torch.empty(len(pixels), self.dim)
        for start in range(0, len(pixels), BATCH):
            batch = torch.stack(list(pixels[start : start + BATCH]))
            padded = torch.cat([batch, batch.new_zeros(BATCH - len(batch), *batch.shape[1:])])
            padded = padded.to(self.device, memory_format=torch.channels_last)
            features[start : start + len(batch)] = _answers(self.name, self.body, padded, InputError)[: len(batch)]
        return features

    def extractor(self, precision: str, before: Callable[[Tensor], Tensor] = lambda picture: picture) -> Extractor:
        """The differentiable path for crafting, through the view's twin; `precision` is bf16 or fp32.

        `before`: what happens to a picture (3, h, w) before the view. It raises RuntimeError where the network fails.
        """

        half = precision == "bf16"
        body = self._folded if half else self.body

        def extract(pictures: list[Tensor]) -> Tensor:
            seen = self._seen([before(picture) for picture in pictures]).contiguous(memory_format=torch.channels_last)
            fast = FastGradients() if half and self.device.type == "cpu" else nullcontext()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half), fast:
                features = _answers(self.name, body, seen, RuntimeError)
            return features.float()

        return extract

    def _seen(self, pictures: list[Tensor]) -> Tensor:
        """Through the view, those of one size together: (n, 3, H, W)."""
        seen: dict[int, Tensor] = {}
        for rows in by_size(pictures):
            seen.update(zip(rows, self.view(torch.stack([pictures[i] for i in rows])), strict=True))
        return torch.stack([seen[i] for i in range(len(pictures))])

    @cached_property
    def _folded(self) -> nn.Module:
        probe = self.view(torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)))
        return folded(self.body, probe.to(self.device, memory_format=torch.channels_last))


def load(
    model: str,
    *,
    weights: str | None = None,
    view: str = "model",
    size: int | None = None,
    device: str = "cpu",
    untrained: bool = False,
) -> Net:
    """Load a frozen extractor; `untrained`: random weights where no file is given, for a training to start from.

    `model`: a timm or torchvision name (`torchvision/NAME` where both have it), `NAME=FILE`, or
    `module:factory`, whose module returns features and has an attribute `data_config` (as timm's:
    input_size, mean, std, interpolation, crop_pct). `view`: `model`, the library's own evaluation
    transform, or `squash`, the whole picture resized to a square of `size` pixels.
    Raises InputError for an unknown name, unfitting or unfetchable weights, views without a twin, features
    that depend on chance or on the pictures beside, a device that is not there, and where torch was told to
    compute in another precision.
    """
    place = _device(device)
    _check_precision(place)
    name, _, file = model.partition("=")
    if file and weights:
        raise InputError(f"weights are named twice, in --model ({file}) and in --weights ({weights}); name one")
    body, transform, source = resolve(name, file or weights, size, untrained=untrained)
    if view == "squash":
        transform = _squashed(transform, size)
    elif view != "model":
        raise InputError(f"--view {view!r} is unknown; expected model or squash")
    seen = twin(transform)
    body.eval().to(memory_format=torch.channels_last)
    for parameter in body.parameters():  # not the module's requires_grad_, which scripted ones do not have
        parameter.requires_grad_(False)
    digest = checkpoints.digest(body)
    body.to(place)
    features = _probed(name, body, transform, place)
    return Net(name, body, transform, seen, features.shape[1], digest, source, place)


def _squashed(transform: Any, size: int | None) -> Transform:
    """The whole picture, with no more of the library's own transform than its size, mean and std."""
    side = size or transform(Image.new("RGB", (64, 64))).shape[1]
    steps = getattr(transform, "transforms", [])  # torchvision's presets have mean and std themselves
    normalise = next((step for step in steps if isinstance(step, Normalize)), transform)
    whole: Transform = squash(side, normalise.mean, normalise.std)
    return whole


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            f"--device {name!r} cannot be used here ({reason}); expected auto, cpu or cuda, and cuda needs a GPU"
        ) from None
    if place.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name!r} does not compute; expected auto, cpu or cuda")
    return place


def _check_precision(place: torch.device) -> None:
    """Features and heads are float32, and cached as such. Raises InputError where torch was told otherwise."""
    default = torch.get_default_dtype()
    if default != torch.float32:
        raise InputError(f"torch's default is {default}; expected float32: call torch.set_default_dtype(torch.float32)")
    if torch.is_autocast_enabled(place.type):
        raise InputError(f"torch.autocast is on for {place.type}; expected float32: leave autocast before this call")


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8))


def _edge() -> Image.Image:
    """Black beside white: what normalises a batch by its extremes finds them here."""
    picture = Image.new("RGB", (64, 48), "black")
    picture.paste("white", (0, 0, 32, 48))
    return picture


def _answers(name: str, body: nn.Module, pictures: Tensor, kind: type[Exception]) -> Tensor:
    """What a network says of pictures (n, 3, H, W). Raises an error of a `kind` for what the user's own code raises.

    What torch raises, and a lack of memory, stay what they are: a worker is lost over them, not the run.
    """
    try:
        features: Tensor = body(pictures)
    except (RuntimeError, MemoryError):
        raise
    except Exception as error:
        raise kind(_raised(name, error, pictures)) from error
    return features


def _raised(name: str, error: Exception, pictures: Tensor) -> str:
    shown = f"{len(pictures)} pictures of {tuple(pictures.shape[2:])}"
    return f"{name} raised {fault(error)} for {shown}; mend it, or try another --size"


def _probed(name: str, body: nn.Module, transform: Transform, device: torch.device) -> Tensor:
    """Features of a picture of noise, twice: (2, d). Raises InputError for a network that has none, or not its own."""
    noise = transform(_noise())
    features, *others = [
        _probe(name, body, torch.stack([noise, beside]).to(device))
        for beside in (noise, torch.zeros_like(noise), transform(_edge()))
    ]
    moved = (torch.stack([features[1], *(other[0] for other in others)]) - features[0]).norm(dim=1).max()
    norm = features[0].norm()
    if moved > ALONE * norm:
        raise InputError(
            f"{name} gives one picture features that differ by {moved:.2g} (their norm is {norm:.2g}) when it is asked "
            "again or beside other pictures; expected the same features: without dropout, statistics of the batch or "
            "dynamic quantisation in eval()"
        )
    return features


def _probe(name: str, body: nn.Module, probe: Tensor) -> Tensor:
    """Features of pictures (n, 3, H, W): (n, d). Raises InputError for what are none."""
    try:
        with torch.inference_mode():
            features = body(probe)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} does not accept pictures of {tuple(probe.shape[2:])} in 3 channels ({reason}); "
            "try another --size, or a network of colour pictures with weights in float32"
        ) from None
    except Exception as error:  # whatever the user's code raises
        raise InputError(_raised(name, error, probe)) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(probe):
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{name} returned {found} for {len(probe)} pictures; expected features of shape (2, d)")
    if not features.is_floating_point() or features.layout != torch.strided:
        found = f"{features.dtype}, {features.layout}"
        raise InputError(f"{name} returned features in {found}; expected real numbers, not sparse, such as float32")
    return features.float()
