"""Certified heads as files: safetensors with a card that says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from poisonfrogs.certified.classifier import CertifiedClassifier, Head
from poisonfrogs.certified.neighbours import NeighbourHead, NeighbourVotes
from poisonfrogs.certified.partitions import PartitionHead, PartitionVotes
from poisonfrogs.certified.radius import RadiusHead, RadiusVotes
from poisonfrogs.certified.stable import StableHead, StableSoftmax
from poisonfrogs.journal import write_bytes
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1
FAMILIES: dict[str, tuple[type[CertifiedClassifier], type[Head]]] = {
    "radius": (RadiusVotes, RadiusHead),
    "neighbours": (NeighbourVotes, NeighbourHead),
    "partitions": (PartitionVotes, PartitionHead),
    "stable": (StableHead, StableSoftmax),
}


def family(classifier: CertifiedClassifier) -> str:
    """The name of a classifier's family."""
    return next(name for name, (kind, _) in FAMILIES.items() if isinstance(classifier, kind))


def save_head(path: Path, classifier: CertifiedClassifier, card: dict[str, Any]) -> None:
    """Write a fitted classifier, whole or not at all. `card`: what else is to be known of it, as JSON."""
    head = classifier.head_
    tensors = {name: buffer.contiguous() for name, buffer in head.named_buffers()}
    said = {
        "schema_version": SCHEMA_VERSION,
        "kind": "certified-head",
        "family": family(classifier),
        "parameters": parameters(classifier),
        "dim": classifier.n_features_in_,
        "classes": classifier.classes_.tolist(),
        "switches": {name: value for name, value in vars(head).items() if name in type(head).__annotations__},
        **card,
    }
    write_bytes(path, save(tensors, metadata={"card": json.dumps(said)}))


def parameters(classifier: CertifiedClassifier) -> dict[str, Any]:
    """The options of a classifier other than its classes."""
    return {name: value for name, value in classifier.get_params().items() if name != "classes"}


def load_head(path: str | Path) -> Head:
    """A saved head: a torch module, features (n, d) -> codes, radius, probabilities; `head.card` says what it is.

    Takes the place of a model's classifier, on any device, as in `nn.Sequential(timm.create_model(name, num_classes=0),
    head)`.
    Raises InputError for a file that is missing or is no certified head.
    """
    card, tensors = read(path)
    kinds = FAMILIES.get(str(card.get("family")))
    if card.get("schema_version") != SCHEMA_VERSION or kinds is None:
        raise InputError(f"{path} was written by another version of poisonfrogs; save the head again")
    kind, switches = kinds[1], card.get("switches")
    if not isinstance(switches, dict) or tensors.keys() | switches.keys() != kind.__annotations__.keys():
        raise InputError(f"{path} does not hold what a head of {card['family']} votes needs; save the head again")
    try:
        head = kind(**tensors, **switches)
        shape = head(torch.ones(1, card["dim"])).probabilities.shape
        fits = shape == (1, len(card["classes"])) and all(tensor.numel() for tensor in tensors.values())
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"the tensors in {path} do not fit together; save the head again")
    head.card = card
    return head


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The card and the tensors of a saved head of any version. Raises InputError for a file that is none."""
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "null"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"no head file {path}; poisonfrogs certify --save FILE writes one") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as safetensors ({error}); expected what certify --save wrote"
        ) from None
    if not isinstance(card, dict) or card.get("kind") != "certified-head":
        raise InputError(f"{path} holds no certified head; expected what poisonfrogs certify --save wrote")
    return card, tensors
