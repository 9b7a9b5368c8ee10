"""Features of whole data sets: streamed through a network, cached on disk by content."""

from __future__ import annotations

import hashlib
import inspect
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import timm
import torch
import torchvision
from filelock import FileLock
from PIL import Image
from torch import Tensor

from poisonfrogs import pictures, views
from poisonfrogs.images import Images
from poisonfrogs.models import BATCH, Net
from poisonfrogs.pictures import Decoded, Gone, Unreadable
from poisonfrogs.types import InputError

Progress = Callable[[int], None]  # told how many more pictures are done
_AT_ONCE = 500  # pictures looked up in the cache at a time


@dataclass(frozen=True, eq=False)
class Features:
    """One row a readable picture, in the order of the set."""

    matrix: Tensor  # float32 (n, d)
    unreadable: dict[int, str]  # row of the set -> why it has no feature
    conversions: Counter[str]  # what was converted, how often


def default_cache() -> Path:
    """The user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("poisonfrogs"))


def features(net: Net, images: Images, *, cache: str | Path, progress: Progress = lambda done: None) -> Features:
    """Features of every picture, computed where the cache has none, in batches that fit in memory.

    The cache is keyed by the picture's content, the network's weights and everything between the
    two. It is written batch by batch, so that a killed run goes on where it was.
    Raises InputError where the network returns features that are not finite, and for a cache that cannot be used.
    """
    path = Path(cache) / "features" / f"{_key(net)}.sqlite"
    try:
        with closing(_connected(path)) as store:
            _prepare(store, path)
            _fill(store, net, images, progress)
            return _collect(store, images, net.dim)
    except sqlite3.Error as error:
        raise InputError(f"the cache {path} cannot be used ({error}); choose another --cache, or delete it") from None


def _connected(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise sqlite3.OperationalError(error) from None
    return sqlite3.connect(path, timeout=60)


def _prepare(store: sqlite3.Connection, path: Path) -> None:
    # SQLite waits for another's lock everywhere but in the step to a write-ahead log
    with FileLock(path.with_suffix(".lock")):
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=NORMAL")  # safe against a kill; a power cut may cost the last batches
        store.execute("CREATE TABLE IF NOT EXISTS picture (content TEXT PRIMARY KEY, vector BLOB, said TEXT)")


def _fill(store: sqlite3.Connection, net: Net, images: Images, progress: Progress) -> None:
    first: dict[str, int] = {}  # of each content
    for i, content in enumerate(images.hashes):
        first.setdefault(content, i)
    for contents in _chunks(list(first)):
        for known in _lookup(store, contents, "content"):
            del first[known[0]]
    progress(len(images) - len(first))
    todo = list(first.values())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            rows = _computed(net, images, batch, pool)
            with store:
                store.executemany("INSERT OR REPLACE INTO picture VALUES (?, ?, ?)", rows)
            progress(len(batch))


def _computed(
    net: Net, images: Images, batch: Sequence[int], pool: ThreadPoolExecutor
) -> list[tuple[str, bytes | None, str]]:
    """Rows for the cache: (content, feature or None, conversions as JSON, or why there is no feature)."""
    results = list(pool.map(lambda i: seen(net, images, i), batch))
    vectors = iter(net.forward([result[0] for result in results if not isinstance(result, Unreadable)]))
    rows: list[tuple[str, bytes | None, str]] = []
    for i, result in zip(batch, results, strict=True):
        if isinstance(result, Gone):  # what is written here stays
            raise result
        if isinstance(result, Unreadable):
            rows.append((images.hashes[i], None, str(result)))
            continue
        vector = next(vectors)
        if not vector.isfinite().all():
            raise InputError(
                f"{net.name} returned features that are not finite numbers for {images.ids[i]!r}; "
                "check its weights and its view"
            )
        rows.append((images.hashes[i], vector.numpy().tobytes(), json.dumps(result[1].conversions)))
    return rows


def seen(net: Net, images: Images, i: int) -> tuple[Tensor, Decoded] | Unreadable:
    """A picture as the network sees it, normalised (3, H, W); or why it cannot be seen."""
    try:
        decoded = images.decode(i)
        width, height = decoded.image.size
        across, down = net.view.resized(height, width)
        # a strip of 1 × 60,000 pixels grows to gigabytes on the way to its middle
        if across * down > (Image.MAX_IMAGE_PIXELS or sys.maxsize) or not across * down:
            return Unreadable(f"{width}×{height} pixels: too long and thin for the view")
        return net.transform(decoded.image), decoded
    except Unreadable as why:
        return why


def _collect(store: sqlite3.Connection, images: Images, dim: int) -> Features:
    matrix = np.empty((len(images), dim), dtype=np.float32)
    unreadable: dict[int, str] = {}
    conversions: Counter[str] = Counter()
    for rows in _chunks(range(len(images))):
        contents = [images.hashes[i] for i in rows]
        found = {content: rest for content, *rest in _lookup(store, contents, "content, vector, said")}
        for i, content in zip(rows, contents, strict=True):
            vector, said = found[content]
            if vector is None:
                unreadable[i] = said
                continue
            matrix[i - len(unreadable)] = _vector(vector, dim)
            conversions.update(json.loads(said))
    return Features(torch.from_numpy(matrix[: len(images) - len(unreadable)]), unreadable, conversions)


def _vector(stored: bytes, dim: int) -> np.ndarray:
    if len(stored) != 4 * dim:
        raise sqlite3.DatabaseError(f"a feature of {len(stored)} bytes instead of {4 * dim}")
    return np.frombuffer(stored, dtype=np.float32)


def _lookup(store: sqlite3.Connection, contents: Sequence[str], columns: str) -> Iterator[tuple[Any, ...]]:
    marks = ", ".join("?" * len(contents))
    return store.execute(f"SELECT {columns} FROM picture WHERE content IN ({marks})", contents)


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def _key(net: Net) -> str:
    between = {
        "weights": net.weights,
        "code": code(net),
        "said": net.said,  # what the code calls need not lie in its module
        "reading": sources([pictures.__name__, views.__name__]),
        "threads": _threads(net, torch.get_num_threads()),
        "name": net.name,
        "view": asdict(net.view),
        "device": net.device.type,
        "versions": [PIL.__version__, *(module.__version__ for module in (torch, torchvision, timm))],
    }
    return hashlib.sha256(json.dumps(between, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(maxsize=2)  # the extractor and the auditor: each is asked for several sets of pictures
def _threads(net: Net, now: int) -> int:
    """1 where the network says the same to the last bit on one thread; else (large products) how many there are."""
    if now == 1 or net.device.type != "cpu":
        return 1
    shape = net.transform(Image.new("RGB", (64, 48))).shape
    noise = list(torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0)))
    found = net.forward(noise)
    torch.set_num_threads(1)
    try:
        return 1 if torch.equal(net.forward(noise), found) else now
    finally:
        torch.set_num_threads(now)


def code(net: Net) -> str:
    """SHA-256 of the source of the user's own network: the same weights in another `forward` give other features."""
    names = {type(module).__module__ for module in net.body.modules()}
    if ":" in net.name:  # its factory may put it together from what is nobody's own
        names.add(net.name.partition(":")[0])
    return sources(name for name in names if name.partition(".")[0] not in ("torch", "torchvision", "timm"))


def sources(modules: Iterable[str]) -> str:
    """SHA-256 of the source of modules that are loaded."""
    total = hashlib.sha256()
    for name in sorted(modules):
        try:
            total.update(inspect.getsource(sys.modules[name]).encode())
        except (OSError, TypeError, KeyError):  # made at a prompt: no file to tell a change by
            total.update(name.encode())
    return total.hexdigest()
