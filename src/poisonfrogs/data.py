"""Labelled pictures from a folder, parquet files or arrays: decoded on demand, never all in memory."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from poisonfrogs.pictures import SUFFIXES, Decoded, Unreadable, decode
from poisonfrogs.types import Edit, InputError

TEST_NAMES = ("val", "valid", "validation", "test")
BUNDLED = "frogs-and-planes"  # a name for the data that comes with the package
TEST_SHARE = 0.2  # of a folder that names no splits
LAYOUTS = (
    "expected a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder of class folders, "
    "parquet files as the hub lays them out, or an .npz with x_train, y_train, x_test, y_test"
)


class Source(Protocol):
    """Where pictures lie: row number -> the file's bytes, or the pixels themselves."""

    def read(self, row: int) -> bytes | np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Images(Sequence[Image.Image]):
    """A split: a sequence of RGB pictures of any sizes, decoded each time one is asked for."""

    source: Source
    rows: np.ndarray  # (n,) rows of the source
    ids: tuple[str, ...]  # paths relative to DATA; split/row for tables
    labels: np.ndarray  # (n,) int64
    hashes: tuple[str, ...]  # SHA-256 of the stored bytes (of shape and pixels, for arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: Any) -> Any:
        return self.decode(i).image

    def decode(self, i: int) -> Decoded:
        """The picture with what had to be converted. Raises Unreadable."""
        content = self.source.read(int(self.rows[i]))
        return decode(content) if isinstance(content, bytes) else Decoded(Image.fromarray(content))

    def select(self, keep: Iterable[int]) -> Images:
        """The same pictures, only those rows."""
        keep = list(keep)
        return Images(
            self.source,
            self.rows[keep],
            tuple(self.ids[i] for i in keep),
            self.labels[keep],
            tuple(self.hashes[i] for i in keep),
        )


@dataclass(frozen=True, eq=False)
class Edited(Sequence[Image.Image]):
    """A training set with an edit applied; the set itself stays as it is."""

    images: Sequence[Image.Image]
    edit: Edit
    kept: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        gone = set(self.edit.removed)
        object.__setattr__(self, "kept", tuple(i for i in range(len(self.images)) if i not in gone))

    def __len__(self) -> int:
        return len(self.kept) + len(self.edit.added)

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self.images[self.kept[i]] if i < len(self.kept) else self.edit.added[i - len(self.kept)]

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """The labels that go with the edited set."""
        return np.concatenate([labels[list(self.kept)], np.full(len(self.edit.added), self.edit.label)])


@dataclass(frozen=True)
class _Joined:
    first: Images
    second: Images

    def read(self, row: int) -> bytes | np.ndarray:
        images, i = (self.first, row) if row < len(self.first) else (self.second, row - len(self.first))
        return images.source.read(int(images.rows[i]))


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and test pictures of the same classes."""

    root: Path
    classes: tuple[str, ...]
    train: Images
    test: Images
    skipped: dict[str, str]  # id -> why it is left out

    def without(self, train: dict[int, str], test: dict[int, str]) -> DataSet:
        """Leave out rows (with the reason for each). Raises InputError if a class has nothing left."""
        skipped = dict(self.skipped)
        parts = []
        for images, gone in ((self.train, train), (self.test, test)):
            skipped.update({images.ids[i]: why for i, why in gone.items()})
            parts.append(images.select(i for i in range(len(images)) if i not in gone))
        return _checked(DataSet(self.root, self.classes, *parts, skipped))

    def fingerprint(self) -> str:
        """SHA-256 over ids, labels and contents: the same pictures in the same places."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for images in (self.train, self.test):
            for row in zip(images.ids, images.labels.tolist(), images.hashes, strict=True):
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def bundled() -> Path:
    """The folder of *frogs and planes*, the cut of CIFAR-10 that comes with the package."""
    return Path(__file__).parent / "bundled" / "frogs_and_planes"


def files(paths: Sequence[str], labels: Sequence[int]) -> Images:
    """Single picture files, their paths as ids."""
    source = _Files(tuple(paths))
    hashes = tuple(hashlib.sha256(source.read(row)).hexdigest() for row in range(len(paths)))
    return Images(source, np.arange(len(paths)), tuple(paths), np.array(labels, dtype=np.int64), hashes)


def joined(first: Images, second: Images) -> Images:
    """One set after the other."""
    return Images(
        _Joined(first, second),
        np.arange(len(first) + len(second)),
        first.ids + second.ids,
        np.concatenate([first.labels, second.labels]),
        first.hashes + second.hashes,
    )


def load(path: str | Path) -> DataSet:
    """Read what is there (or the bundled pictures, by their name): ids, labels and content hashes. No picture is decoded yet.

    Raises InputError for a missing path, an unknown layout, fewer than two classes, or an empty class.
    """
    root = bundled() if str(path) == BUNDLED else Path(path)
    if not root.exists():
        raise InputError(f"{root} does not exist; {LAYOUTS}")
    if root.suffix == ".npz":
        return _checked(_from_arrays(root))
    tables = [root] if root.suffix == ".parquet" else sorted(root.rglob("*.parquet")) if root.is_dir() else []
    if tables:
        return _checked(_from_parquet(root, tables))
    if not root.is_dir():
        raise InputError(f"{root} is a file of no known kind; {LAYOUTS}")
    return _checked(_from_folder(root))


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
                    f"class {label!r} of {where} has no readable {name} picture; add some, or remove the class"
                )
    return data


# --- image folders


@dataclass(frozen=True)
class _Files:
    paths: tuple[str, ...]

    def read(self, row: int) -> bytes:
        try:
            with open(self.paths[row], "rb") as file:
                return file.read()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None


def _from_folder(root: Path) -> DataSet:
    test_name = next((name for name in TEST_NAMES if (root / name).is_dir()), None)
    split = (root / "train").is_dir() and test_name is not None
    parts = {"train": root / "train", "test": root / str(test_name)} if split else {"all": root}
    classes = tuple(sorted({child.name for part in parts.values() for child in _folders(part)}))
    skipped: dict[str, str] = {}
    images = {name: _read_classes(root, part, classes, skipped) for name, part in parts.items()}
    if split:
        return DataSet(root, classes, images["train"], images["test"], skipped)
    return DataSet(root, classes, *_split(images["all"]), skipped)


def _folders(part: Path) -> list[Path]:
    return [child for child in part.iterdir() if child.is_dir() and not child.name.startswith(".")]


def _read_classes(root: Path, part: Path, classes: tuple[str, ...], skipped: dict[str, str]) -> Images:
    paths, ids, labels, hashes = [], [], [], []
    for label, name in enumerate(classes):
        for path in _walk(part / name):
            identity = os.path.relpath(path, root).replace(os.sep, "/")
            try:
                if not os.path.isfile(path):
                    raise Unreadable("a broken link" if os.path.islink(path) else "not a file")
                content = _Files((path,)).read(0)
                if not content:
                    raise Unreadable("zero bytes")
            except Unreadable as why:
                skipped[identity] = str(why)
                continue
            paths.append(path)
            ids.append(identity)
            labels.append(label)
            hashes.append(hashlib.sha256(content).hexdigest())
    return Images(
        _Files(tuple(paths)), np.arange(len(ids)), tuple(ids), np.array(labels, dtype=np.int64), tuple(hashes)
    )


def _walk(folder: Path) -> Iterator[str]:
    """What is named like a picture below a folder, sorted; links are followed, but never in a circle."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        odd = [name for name in folders if name.lower().endswith(SUFFIXES)]
        folders[:] = sorted(name for name in folders if name not in odd and not name.startswith("."))
        for name in sorted(files + odd):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def _split(images: Images) -> tuple[Images, Images]:
    """Split by content, so that copies of a picture fall on the same side and a new picture moves no other."""
    held_out = [int(content[:8], 16) < TEST_SHARE * 2**32 for content in images.hashes]
    train = images.select(i for i, out in enumerate(held_out) if not out)
    return train, images.select(i for i, out in enumerate(held_out) if out)


# --- parquet, as the hub lays it out: columns img|image (struct bytes, path) and label


class _Parquet:
    """Rows of parquet files; the last few row groups read are kept."""

    def __init__(self, files: list[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self.column = column
        self.files = [pq.ParquetFile(file) for file in files]
        self.groups = [
            (number, group) for number, file in enumerate(self.files) for group in range(file.num_row_groups)
        ]
        sizes = [self.files[number].metadata.row_group(group).num_rows for number, group in self.groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.kept: OrderedDict[int, list[bytes | None]] = OrderedDict()
        self.lock = threading.Lock()  # pictures are decoded in threads

    def read(self, row: int) -> bytes:
        with self.lock:
            return self._read(row)

    def _read(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        if group not in self.kept:
            file, number = self.groups[group]
            table = self.files[file].read_row_group(number, columns=[self.column])
            self.kept[group] = [value and value["bytes"] for value in table.column(0).to_pylist()]
            if len(self.kept) > 4:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        content = self.kept[group][row - int(self.starts[group])]
        if not content:
            raise Unreadable("zero bytes")
        return content


def _from_parquet(root: Path, files: list[Path]) -> DataSet:
    splits: dict[str, list[Path]] = {"train": [], "test": [], "all": []}
    for file in files:
        name = file.name.split("-")[0].split(".")[0]
        parents = {name, *file.relative_to(root).parts[:-1]} if file != root else {name}
        kind = "train" if "train" in parents else "test" if parents & set(TEST_NAMES) else "all"
        splits[kind].append(file)
    skipped: dict[str, str] = {}
    if splits["train"] and splits["test"]:
        classes, train = _read_tables(splits["train"], "train", skipped)
        test_classes, test = _read_tables(splits["test"], "test", skipped)
        if classes != test_classes:
            raise InputError(f"the parquet files of {root} name different classes for training and test")
        return DataSet(root, classes, train, test, skipped)
    classes, everything = _read_tables(files, "all", skipped)
    return DataSet(root, classes, *_split(everything), skipped)


def _read_tables(files: list[Path], split: str, skipped: dict[str, str]) -> tuple[tuple[str, ...], Images]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schemas = [pq.read_schema(file) for file in files]
        names = schemas[0].names
        column = next((name for name in ("img", "image") if name in names), None)
        if column is None or "label" not in names:
            raise InputError(f"{files[0]} has the columns {', '.join(names)}; expected img (or image) and label")
        source = _Parquet(files, column)
        labels = np.concatenate([pq.read_table(file, columns=["label"]).column(0).to_numpy() for file in files])
        classes = _class_names(schemas[0], labels)
        keep, hashes = [], []
        for row in range(len(labels)):
            try:
                hashes.append(hashlib.sha256(source.read(row)).hexdigest())
                keep.append(row)
            except Unreadable as why:
                skipped[f"{split}/{row}"] = str(why)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, KeyError) as error:
        raise InputError(f"{files[0]} is no parquet file of pictures as the hub lays them out ({error})") from None
    ids = tuple(f"{split}/{row}" for row in keep)
    return classes, Images(source, np.array(keep), ids, labels[keep].astype(np.int64), tuple(hashes))


def _class_names(schema: Any, labels: np.ndarray) -> tuple[str, ...]:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
    count = int(labels.max(initial=-1)) + 1
    if labels.min(initial=0) < 0 or (names is not None and count > len(names)):
        raise InputError(
            f"labels from {labels.min()} to {labels.max()} where the file names {len(names or [])} classes"
        )
    return tuple(names) if names else tuple(map(str, range(count)))


# --- arrays


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 (n, h, w, 3)

    def read(self, row: int) -> np.ndarray:
        return np.ascontiguousarray(self.pixels[row])


def _from_arrays(path: Path) -> DataSet:
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in wanted if name not in file]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(file.files)}")
            x_train, y_train, x_test, y_test = (file[name] for name in wanted)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read without running code from it ({error})") from None
    except Exception as error:  # zipfile.BadZipFile among others
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not an .npz file ({error})") from None
    labels = np.concatenate([y_train.ravel(), y_test.ravel()])
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise InputError(f"{path}: y_train and y_test hold {labels.dtype}; expected class numbers from 0")
    classes = tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    train = _array_images(path, "train", x_train, y_train.ravel())
    return DataSet(path, classes, train, _array_images(path, "test", x_test, y_test.ravel()), {})


def _array_images(path: Path, split: str, pixels: np.ndarray, labels: np.ndarray) -> Images:
    if pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] == 1):  # grey
        pixels = np.repeat(pixels.reshape(*pixels.shape[:3], 1), 3, axis=-1)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or len(pixels) != len(labels):
        raise InputError(
            f"{path}: x_{split} is {pixels.dtype} {pixels.shape} with {len(labels)} labels; "
            "expected uint8 (n, height, width, 3) and n labels"
        )
    shape = repr(pixels.shape[1:]).encode()
    hashes = tuple(hashlib.sha256(shape + picture.tobytes()).hexdigest() for picture in pixels)
    ids = tuple(f"{split}/{row}" for row in range(len(pixels)))
    return Images(_Arrays(pixels), np.arange(len(pixels)), ids, labels.astype(np.int64), hashes)
