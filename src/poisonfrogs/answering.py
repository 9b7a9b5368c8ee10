"""What a saved certified head says of pictures, through the extractor it was fitted on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from poisonfrogs import pipeline
from poisonfrogs.certified.saved import load_head
from poisonfrogs.features import seen
from poisonfrogs.images import Images, files
from poisonfrogs.models import BATCH, Net
from poisonfrogs.pictures import Unreadable
from poisonfrogs.plan import Pipeline, validate_pipeline
from poisonfrogs.stats import rounded
from poisonfrogs.types import InputError


class Answer(TypedDict):
    """What the head says of one picture."""

    picture: str
    predicted: str
    radius: int  # training pictures that can be inserted or removed without changing this
    probabilities: list[float]


def ask(head: Path, pictures: Sequence[Path], options: Pipeline) -> list[Answer]:
    """Answers of a saved head. Its card names the network and the view; `options` say where to compute, and --weights.

    A network that is code, or a download, is loaded only if `options.model` names it as well: whoever made the file
    must not choose what runs here. Raises InputError for a file that is no head, for another extractor than the head's,
    and for unreadable pictures.
    """
    validate_pipeline(options)
    loaded = load_head(head)
    model = loaded.card.get("model")
    if not isinstance(model, dict) or {"name", "weights", "transform", "view", "size"} - model.keys():
        raise InputError(f"{head} does not say which extractor it was fitted on; expected what certify --save wrote")
    name = model["name"]
    if options.model not in (name, Pipeline.model):
        raise InputError(f"{head} was fitted on {name}, and --model is {options.model}; leave it away, or give that")
    if options.model != name and ":" in str(name):
        raise InputError(
            f"{head} was fitted on {name}, which is code, or a download; give --model {name} if you trust it"
        )
    options = replace(options, model=name, view=model["view"], size=model["size"])
    net = pipeline.network(options)
    _check_same(head, model, pipeline.extractor(options, net), net.source)
    images = files([str(path) for path in pictures], [0] * len(pictures))
    with pipeline.threads(options.threads or os.cpu_count() or 1):
        said = loaded(_features(net, images))
    return [
        {
            "picture": path,
            "predicted": str(loaded.card["classes"][code]),
            "radius": radius,
            "probabilities": rounded(probabilities),
        }
        for path, code, radius, probabilities in zip(
            images.ids, said.codes.tolist(), said.radius.tolist(), said.probabilities, strict=True
        )
    ]


def _check_same(head: Path, fitted: Mapping[str, Any], now: Mapping[str, Any], source: str) -> None:
    """Raises InputError where the head's radii say nothing of the features that it would be asked about."""
    other = {
        "weights": f"other weights than those loaded ({source}); give the file they were in with --weights",
        "transform": "another view of pictures than it has now; go back to that, or fit the head again",
        "code": "other code than it has now, or does not say with which; go back to that, or fit the head again",
    }
    for key, told in other.items():
        if fitted.get(key) != now.get(key):
            raise InputError(f"{head} was fitted on {now['name']} with {told}")


def _features(net: Net, images: Images) -> Tensor:
    """Features (n, d), in batches that fit in memory. Raises InputError for a picture that cannot be seen."""
    features = torch.empty(len(images), net.dim)
    for start in range(0, len(images), BATCH):
        batch = range(start, min(start + BATCH, len(images)))
        features[start : batch.stop] = net.forward([_pixels(net, images, i) for i in batch])
    return features


def _pixels(net: Net, images: Images, i: int) -> Tensor:
    result = seen(net, images, i)
    if isinstance(result, Unreadable):
        raise InputError(f"{images.ids[i]} cannot be read ({result}); expected a picture")
    return result[0]
