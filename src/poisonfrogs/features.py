"""Features of whole data sets: streamed through a network, cached on disk by content."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from poisonfrogs.data import Images
from poisonfrogs.models import BATCH, Net
from poisonfrogs.pictures import Decoded, Unreadable
from poisonfrogs.types import InputError

Progress = Callable[[int], None]  # told how many more pictures are done


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


def features(net: Net, images: Images, *, cache: Path, progress: Progress = lambda done: None) -> Features:
    """Features of every picture, computed where the cache has none, in batches that fit in memory.

    The cache is keyed by the picture's content, the network's weights and everything between the
    two. It is written batch by batch, so that a killed run goes on where it was.
    Raises InputError where the network returns features that are not finite.
    """
    with closing(_open(cache / "features", _key(net))) as store:
        known = _known(store)
        todo = list(dict.fromkeys(h for h in images.hashes if h not in known))
        first = {h: i for i, h in reversed(list(enumerate(images.hashes)))}
        progress(len(images) - len(todo))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, len(todo), BATCH):
                batch = [first[h] for h in todo[start : start + BATCH]]
                _compute(net, images, batch, store, pool)
                progress(len(batch))
        return _collect(store, images, net.dim)


def _compute(net: Net, images: Images, batch: list[int], store: sqlite3.Connection, pool: ThreadPoolExecutor) -> None:
    def seen(i: int) -> tuple[Tensor, Decoded] | Unreadable:
        try:
            decoded = images.decode(i)
            return net.transform(decoded.image), decoded
        except Unreadable as why:
            return why

    results = list(pool.map(seen, batch))
    good = [result[0] for result in results if not isinstance(result, Unreadable)]
    vectors = iter(net.forward(good))
    rows: list[tuple[str, bytes | None, str]] = []
    for i, result in zip(batch, results, strict=True):
        if isinstance(result, Unreadable):
            rows.append((images.hashes[i], None, str(result)))
            continue
        vector = next(vectors)
        if not vector.isfinite().all():
            raise InputError(
                f"{net.name} returned features that are not finite numbers for {images.ids[i]!r}; check its weights and its view"
            )
        rows.append((images.hashes[i], vector.numpy().tobytes(), json.dumps(result[1].conversions)))
    with store:
        store.executemany("INSERT OR REPLACE INTO picture VALUES (?, ?, ?)", rows)


def _collect(store: sqlite3.Connection, images: Images, dim: int) -> Features:
    matrix = np.empty((len(images), dim), dtype=np.float32)
    where: dict[str, list[int]] = {}
    for i, content in enumerate(images.hashes):
        where.setdefault(content, []).append(i)
    unreadable: dict[int, str] = {}
    conversions: Counter[str] = Counter()
    for content, vector, said in store.execute("SELECT content, vector, said FROM picture"):
        for i in where.get(content, ()):
            if vector is None:
                unreadable[i] = said
            else:
                matrix[i] = np.frombuffer(vector, dtype=np.float32)
                conversions.update(json.loads(said))
    keep = [i for i in range(len(images)) if i not in unreadable]
    return Features(torch.from_numpy(matrix[keep] if unreadable else matrix), unreadable, conversions)


def _known(store: sqlite3.Connection) -> set[str]:
    return {content for (content,) in store.execute("SELECT content FROM picture")}


def _key(net: Net) -> str:
    between = {
        "weights": net.weights,
        "body": type(net.body).__name__,
        "name": net.name,
        "view": asdict(net.view),
        "device": net.device.type,
        "versions": [PIL.__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(between, sort_keys=True).encode()).hexdigest()[:32]


def _open(folder: Path, key: str) -> sqlite3.Connection:
    path = folder / f"{key}.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(path, timeout=60)
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("CREATE TABLE IF NOT EXISTS picture (content TEXT PRIMARY KEY, vector BLOB, said TEXT)")
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"the cache {path} cannot be used ({error}); choose another --cache, or delete it") from None
    return store
