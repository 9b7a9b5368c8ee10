"""What a saved certified head says of pictures, through the extractor it was fitted on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from poisonfrogs import pipeline
from poisonfrogs.certified.saved import load_head
from poisonfrogs.images import files
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

    Raises InputError for a file that is no head, for another extractor than the head's, and for unreadable pictures.
    """
    validate_pipeline(options)
    loaded = load_head(head)
    model = loaded.card.get("model")
    if not isinstance(model, dict) or {"name", "weights", "view", "size"} - model.keys():
        raise InputError(f"{head} does not say which extractor it was fitted on; expected what certify --save wrote")
    net = pipeline.network(replace(options, model=model["name"], view=model["view"], size=model["size"]))
    if net.weights != model["weights"]:
        raise InputError(
            f"{head} was fitted on {model['name']} with other weights than those loaded ({net.source}); "
            "give the file they were in with --weights"
        )
    images = files([str(path) for path in pictures], [0] * len(pictures))
    for i, path in enumerate(images.ids):
        try:
            images[i]
        except Unreadable as why:
            raise InputError(f"{path} cannot be read ({why}); expected a picture") from None
    with pipeline.threads(options.threads or os.cpu_count() or 1):
        said = loaded(net.features(images))
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
