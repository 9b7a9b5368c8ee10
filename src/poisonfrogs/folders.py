"""Image folders: train/CLASS/**, val/CLASS/**, or CLASS/** to be split. Links are followed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from poisonfrogs.images import TEST_NAMES, Files, Images, Splits, split
from poisonfrogs.pictures import SUFFIXES, Gone, Unreadable
from poisonfrogs.types import InputError

# what people call splits, in any case: as classes they would make a run that means nothing
LIKE_SPLITS = {"train", "training", "dev", "eval", "testing", *TEST_NAMES}


def read(root: Path) -> Splits:
    """Ids, labels and content hashes of every file that is named like a picture. None is decoded."""
    parts = _parts(root)
    classes = tuple(sorted({child.name for part in parts.values() for child in _folders(part)}))
    if classes and {name.lower() for name in classes} <= LIKE_SPLITS:
        raise InputError(f"{root} holds {', '.join(classes)}: splits, and no classes; call them train and val")
    skipped = {path.relative_to(root).as_posix(): "in no class folder" for path in _loose({root, *parts.values()})}
    images = {name: _read_classes(root, part, classes, skipped) for name, part in parts.items()}
    train, test = (images["train"], images["test"]) if "test" in images else split(images["train"])
    return Splits(classes, train, test, skipped, own_test="test" in images)


def _parts(root: Path) -> dict[str, Path]:
    """The folders that hold class folders; a single one is to be split."""
    test = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if test and (root / "train").is_dir():
        return {"train": root / "train", "test": test}
    only_train = [child.name for child in _folders(root)] == ["train"]
    return {"train": root / "train" if only_train else root}


def _loose(folders: Iterable[Path]) -> list[Path]:
    """Pictures beside class folders, which belong to none."""
    beside = (child for folder in folders for child in folder.iterdir() if not child.name.startswith("."))
    return sorted(child for child in beside if child.name.lower().endswith(SUFFIXES) and child.is_file())


def _folders(part: Path) -> list[Path]:
    return [child for child in part.iterdir() if child.is_dir() and not child.name.startswith(".")]


def read_any(root: Path) -> tuple[Images, dict[str, str]]:
    """Every file below `root` that is named like a picture, hidden or not; all labels are 0."""
    skipped: dict[str, str] = {}
    # other loaders train on hidden pictures, so that those are no place to hide one
    return _read(root, [walk(root, hidden=True)], skipped), skipped


def _read_classes(root: Path, part: Path, classes: tuple[str, ...], skipped: dict[str, str]) -> Images:
    return _read(root, [walk(part / name) for name in classes], skipped)


def _read(root: Path, found: Sequence[Iterator[str]], skipped: dict[str, str]) -> Images:
    """`found`: the files of each label."""
    paths, ids, labels, hashes = [], [], [], []
    for label, files in enumerate(found):
        for path in files:
            identity = os.path.relpath(path, root).replace(os.sep, "/")
            try:
                content = _hash(path)
            except Unreadable as why:
                skipped[identity] = str(why)
                continue
            paths.append(path)
            ids.append(identity)
            labels.append(label)
            hashes.append(content)
    return Images(Files(tuple(paths)), np.arange(len(ids)), tuple(ids), np.array(labels, dtype=np.int64), tuple(hashes))


def _hash(path: str) -> str:
    if not Path(path).is_file():  # a pipe or a device would never end
        raise Unreadable("not a file" if Path(path).exists() else "a broken link")
    try:
        content = Files((path,)).read(0)
    except Gone as why:
        raise Unreadable(why.args[0]) from None
    if not content:
        raise Unreadable("zero bytes")
    return hashlib.sha256(content).hexdigest()


def walk(folder: Path, *, hidden: bool = False) -> Iterator[str]:
    """What is named like a picture below a folder, sorted; links are followed, but never in a circle.

    `hidden`: also what begins with a dot, but for what macOS leaves beside a file (`._name`).
    """
    left_out = "._" if hidden else "."
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        odd = [name for name in folders if name.lower().endswith(SUFFIXES)]
        folders[:] = sorted(name for name in folders if name not in odd and not name.startswith(left_out))
        for name in sorted(files + odd):
            if name.lower().endswith(SUFFIXES) and not name.startswith(left_out):
                yield f"{parent}{os.sep}{name}"


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a class that one of the splits lacks
        raise error
