"""Data sets: what lies at a path, as training and test pictures of the same classes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from poisonfrogs import folders, tables
from poisonfrogs.images import Edited, Images, files, joined
from poisonfrogs.types import InputError

__all__ = ["BUNDLED", "DataSet", "Edited", "Images", "bundled", "files", "joined", "load"]

BUNDLED = "frogs-and-planes"  # a name for the data that comes with the package
LAYOUTS = (
    "expected a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder of class folders, "
    "parquet files as the hub lays them out, or an .npz with x_train, y_train, x_test, y_test"
)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test pictures of the same classes."""

    root: Path
    classes: tuple[str, ...]
    train: Images
    test: Images
    skipped: dict[str, str]  # id -> why it is left out
    own_test: bool  # see Splits

    def without(self, train: dict[int, str], test: dict[int, str]) -> DataSet:
        """Leave out rows (with the reason for each). Raises InputError if a class has nothing left."""
        skipped = dict(self.skipped)
        for images, gone in ((self.train, train), (self.test, test)):
            skipped.update({images.ids[i]: why for i, why in gone.items()})
        return _checked(replace(self, train=_less(self.train, train), test=_less(self.test, test), skipped=skipped))

    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and contents: the same pictures in the same places."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for images in (self.train, self.test):
            for row in zip(images.ids, images.labels.tolist(), images.hashes, strict=True):
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def _less(images: Images, gone: dict[int, str]) -> Images:
    return images.select(i for i in range(len(images)) if i not in gone)


def bundled() -> Path:
    """The folder of *frogs and planes*, the cut of CIFAR-10 that comes with the package."""
    return Path(__file__).parent / "bundled" / "frogs_and_planes"


def pictures(path: str | Path) -> tuple[Images, dict[str, str]]:
    """All pictures that lie at a path, of both splits where there are two, and why some are left out.

    No classes are needed. Raises InputError for a missing path, an unknown layout, and no pictures.
    """
    root, kind = _located(path)
    skipped: dict[str, str] = {}
    if kind == ".npz":
        images = tables.read_any_arrays(root)
    elif kind == ".parquet":
        images, skipped = tables.read_any_parquet(root.parent, [root])
    elif shards := _shards(root, hidden=True):
        images, skipped = tables.read_any_parquet(root, shards)
    else:
        images, skipped = folders.read_any(root)
    if not len(images):
        raise InputError(f"{root} holds no pictures; expected files named like pictures (.jpg, .png, ...), or rows")
    return images, skipped


def load(path: str | Path) -> DataSet:
    """Read ids, labels and content hashes of what is there, or of the bundled pictures, by their name.

    No picture is decoded yet.

    Raises InputError for a missing path, an unknown layout, fewer than two classes, or an empty class.
    """
    root, kind = _located(path)
    if kind == ".npz":
        return _checked(DataSet(root, *tables.read_arrays(root)))
    if kind == ".parquet":
        return _checked(DataSet(root, *tables.read_parquet(root.parent, [root])))
    shards = _shards(root)
    return _checked(DataSet(root, *(tables.read_parquet(root, shards) if shards else folders.read(root))))


def _located(path: str | Path) -> tuple[Path, str]:
    """Where that is, and what it is: the suffix of a file, or nothing of a folder. Raises InputError."""
    root = bundled() if str(path) == BUNDLED else Path(path)
    if not root.exists():
        raise InputError(f"{root} does not exist; {LAYOUTS}")
    if root.is_dir():
        return root, ""
    if not root.is_file() or root.suffix not in (".npz", ".parquet"):
        raise InputError(f"{root} is a file of no known kind; {LAYOUTS}")
    return root, root.suffix


def _shards(root: Path, *, hidden: bool = False) -> list[Path]:
    """Parquet files below a folder; hidden ones are no data. Raises InputError where pictures lie there as well.

    `hidden`: whether hidden pictures count.
    """
    found = sorted(
        file
        for file in root.rglob("*.parquet")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )
    picture = next(folders.walk(root, hidden=hidden), None) if found else None
    if picture:  # one file more must not put all the others out of sight
        raise InputError(
            f"{root} holds parquet files ({found[0].relative_to(root)}) as well as pictures "
            f"({Path(picture).relative_to(root)}); move one kind away, or name one parquet file"
        )
    return found


def _checked(data: DataSet) -> DataSet:
    where = data.root
    if len(data.classes) < 2:
        found = f"one class ({data.classes[0]!r})" if data.classes else "no classes"
        raise InputError(f"{where} holds {found}; poisoning needs at least two; {LAYOUTS}")
    for name, images in (("training", data.train), ("test", data.test)):
        counts = Counter(images.labels.tolist())
        for number, label in enumerate(data.classes):
            if not counts[number]:
                raise InputError(
                    f"class {label!r} of {where} has no readable {name} picture (in a folder that is split, copies of "
                    "one picture stay on one side); add some, or remove the class"
                )
    return data
