"""Pictures through a frozen extractor: the network, the features, and the machine they were computed on."""

from __future__ import annotations

import ctypes
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from poisonfrogs import data, models, provenance
from poisonfrogs.features import Features, code, default_cache, features
from poisonfrogs.images import Images
from poisonfrogs.plan import Pipeline
from poisonfrogs.progress import Progress, counting
from poisonfrogs.types import InputError


def loaded(options: Pipeline) -> data.DataSet:
    """What lies at DATA. Raises InputError where it cannot be read, or is not what was signed with --require-signed."""
    if options.require_signed:
        if str(options.data) == data.BUNDLED:  # a folder of that name would be verified, and not be what is loaded
            raise InputError("the bundled pictures are not signed; give a folder by its whole path")
        provenance.require(options.data, options.require_signed, options.manifest)
    return data.load(options.data)


def device(options: Pipeline) -> str:
    """Where the network computes."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device


def network(options: Pipeline, *, untrained: bool = False) -> models.Net:
    """The frozen extractor, or what a training starts from. Raises InputError for one that cannot be used."""
    return models.load(
        options.model,
        weights=str(options.weights) if options.weights else None,
        view=options.view,
        size=options.size,
        device=device(options),
        untrained=untrained,
    )


def identity(net: models.Net) -> dict[str, Any]:
    """What tells a network from another, as JSON holds it."""
    # the weights of the user's own network may stay what they are while its code is changed
    own = {"code": code(net)} if ":" in net.name else {}
    return {"name": net.name, "weights": net.weights, **own}


def extractor(options: Pipeline, net: models.Net) -> dict[str, Any]:
    """What features depend on, and the options that load it again, as JSON holds them."""
    held = identity(net) | {"dim": net.dim, "transform": asdict(net.view), "view": options.view, "size": options.size}
    said: dict[str, Any] = json.loads(json.dumps(held))
    return said


def featurised(
    options: Pipeline, net: models.Net, parts: Mapping[str, Images], progress: Progress, stage: str = "features"
) -> dict[str, Features]:
    """Features of several sets, by their names, under one progress bar."""
    tell = counting(progress, stage, sum(map(len, parts.values())))
    cache = options.cache or default_cache()
    return {name: features(net, images, cache=cache, progress=tell) for name, images in parts.items()}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("poisonfrogs", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def hardware(device: torch.device) -> str:
    """The machine, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads inside, for torch and for NumPy."""
    _keep_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def _keep_memory() -> None:
    """Keep what is freed: giving a network's activations back to the system and taking them again, pass after pass,
    costs a sixth of the time of crafting. Only glibc can be told.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 28)
    mallopt(trim_threshold, 1 << 30)
