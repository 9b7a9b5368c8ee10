"""Pictures in tables: parquet as the hub lays it out (a struct of bytes and path, and a class), and .npz."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from poisonfrogs.images import TEST_NAMES, Images, Splits, joined, split
from poisonfrogs.pictures import Unreadable
from poisonfrogs.types import InputError

_KEPT_GROUPS = 4  # row groups of a table that stay in memory
# the hub's names of columns, the first that is there
PICTURES = ("img", "image")
LABELS = ("label", "labels", "fine_label")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_EXPECTED = "expected class numbers from 0, or names of classes"


# --- parquet


class _Parquet:
    """Rows of parquet files; the last few row groups read are kept."""

    def __init__(self, files: Sequence[tuple[Path, str]]) -> None:
        """`files`: each with the column of its pictures."""
        import pyarrow.parquet as pq

        self.files = files
        opened = [(pq.ParquetFile(path), column) for path, column in files]
        self.groups = [(file, column, group) for file, column in opened for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, _, group in self.groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.kept: OrderedDict[int, list[Any]] = OrderedDict()
        self.lock = threading.Lock()  # pictures are decoded in threads

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes, which open the files themselves."""
        return _Parquet, (self.files,)

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        with self.lock:
            value = self._group(group)[row - int(self.starts[group])]
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None and not isinstance(content, bytes):
            raise TypeError(f"{self.groups[group][1]} holds {type(content).__name__}, not bytes")
        if not content:
            raise Unreadable("no bytes" if content is None else "zero bytes")
        return content

    def _group(self, group: int) -> list[Any]:
        if group not in self.kept:
            file, column, number = self.groups[group]
            self.kept[group] = file.read_row_group(number, columns=[column]).column(0).to_pylist()
            if len(self.kept) > _KEPT_GROUPS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        return self.kept[group]


@dataclass(frozen=True, eq=False)
class _Table:
    source: _Parquet
    labels: np.ndarray  # (n,) integers, or names of classes
    names: tuple[str, ...] | None  # of the classes, where the files tell


def read_parquet(root: Path, files: Sequence[Path]) -> Splits:
    """Ids, labels and content hashes of every row. Raises InputError for other columns than the hub's."""
    tables = {name: _table(members) for name, members in _shards(root, files).items()}
    classes, numbers = _classes(root, list(tables.values()))
    skipped: dict[str, str] = {}
    with _readable(root):
        images = {
            name: _rows(name, table.source, mine, skipped)
            for (name, table), mine in zip(tables.items(), numbers, strict=True)
        }
    train, test = (images["train"], images["test"]) if "test" in images else split(images["all"])
    return Splits(classes, train, test, skipped, own_test="test" in images)


def read_any_parquet(root: Path, files: Sequence[Path]) -> tuple[Images, dict[str, str]]:
    """Every row of every file, whatever split it is of, and why some are left out; all labels are 0.

    Rows have the ids that an audit gives them, and those that it would not read FILE/row.
    Raises InputError for a file without a column of pictures.
    """
    shards = _shards(root, files)
    told = {file for members in shards.values() for file in members}
    shards |= {file.relative_to(root).as_posix(): [file] for file in files if file not in told}
    skipped: dict[str, str] = {}
    parts = []
    for name, members in shards.items():
        with _readable(root):
            source = _Parquet([(path, _opened(path, PICTURES)[1]) for path in members])
            parts.append(_rows(name, source, np.zeros(len(source), dtype=np.int64), skipped))
    return reduce(joined, parts), skipped


def _shards(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, by their own or their folders' names; all of them, where these tell no splits."""
    named: dict[str, list[Path]] = {}
    for file in files:
        own = file.name.split("-")[0].split(".")[0]
        for name in {own, *file.relative_to(root).parts[:-1]} & {"train", *TEST_NAMES}:
            named.setdefault(name, []).append(file)
    test = next((named[name] for name in TEST_NAMES if name in named), None)
    return {"train": named["train"], "test": test} if test and "train" in named else {"all": list(files)}


def _table(files: Sequence[Path]) -> _Table:
    pictures, labels, names = [], [], []
    for path in files:
        file, column, label = _opened(path, PICTURES, LABELS)
        with _readable(path):
            pictures.append((path, column))
            labels.append(_labels(path, file.read(columns=[label]).column(0)))
            names.append(_names(file.schema_arrow, label))
    return _Table(_Parquet(pictures), _joined(files[0].parent, labels), names[0])


def _opened(path: Path, *wanted: Sequence[str]) -> tuple[Any, ...]:
    """A parquet file, and of each of the columns wanted the first of its names that is there."""
    import pyarrow.parquet as pq

    with _readable(path):
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
    found = [next((name for name in known if name in columns), None) for known in wanted]
    if None in found:
        expected = " and ".join(f"{known[0]} (or {', '.join(known[1:])})" for known in wanted)
        raise InputError(f"{path} has the columns {', '.join(columns)}; expected {expected}")
    return file, *found


def _labels(path: Path, column: Any) -> np.ndarray:
    """A column of labels (pyarrow's) as integers or words (n,); words may be kept as numbers of a dictionary."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    values = column.to_pylist() if words else []
    missing = values.count("") + column.null_count
    if missing or not (words or pa.types.is_integer(column.type)):
        raise InputError(f"{path} has labels of {kind}, {missing} missing; {_EXPECTED}")
    return np.array(values, dtype=str) if words else np.asarray(column.to_numpy())


def _names(schema: Any, label: str) -> tuple[str, ...] | None:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(label, {}).get("names")
    if not names:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"its class names are {names!r:.60}, not a list of words")
    if len(set(names)) < len(names):
        raise ValueError(f"a class name stands twice among its {len(names)}")
    return tuple(names)


def _classes(root: Path, tables: Sequence[_Table]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    names = tables[0].names
    if any(table.names != names for table in tables):
        raise InputError(f"the parquet files of {root} name different classes for training and test; expected the same")
    return _numbered(root, [table.labels for table in tables], names)


def _rows(split_name: str, source: _Parquet, labels: np.ndarray, skipped: dict[str, str]) -> Images:
    keep, hashes = [], []
    for row in range(len(labels)):
        try:
            hashes.append(hashlib.sha256(source.read(row)).hexdigest())
            keep.append(row)
        except Unreadable as why:
            skipped[f"{split_name}/{row}"] = str(why)
    rows = np.array(keep, dtype=np.int64)
    ids = tuple(f"{split_name}/{row}" for row in keep)
    return Images(source, rows, ids, labels[rows].astype(np.int64), tuple(hashes))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a parquet file of pictures ({error}); expected the hub's layout: "
            "pictures as bytes, and their classes"
        ) from None


# --- arrays


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 (n, h, w, 3)

    def read(self, row: int) -> np.ndarray:
        return np.ascontiguousarray(self.pixels[row])


def read_arrays(path: Path) -> Splits:
    """The pictures of an .npz. Raises InputError for other arrays, and for any that hold code."""
    x_train, y_train, x_test, y_test = _loaded(path, _ARRAYS).values()
    for name, part in (("y_train", y_train), ("y_test", y_test)):
        if part.dtype.kind not in "iuU":
            raise InputError(f"{path}: {name} holds {part.dtype}; {_EXPECTED}")
    classes, (train_labels, test_labels) = _numbered(path, [y_train.ravel(), y_test.ravel()], None)
    train = _array_images(path, "train", x_train, train_labels)
    return Splits(classes, train, _array_images(path, "test", x_test, test_labels), {}, own_test=True)


def read_any_arrays(path: Path) -> Images:
    """The pictures of an .npz, of whatever split; all labels are 0. Raises InputError as `read_arrays` does."""
    held = _loaded(path, [name for name in _ARRAYS if name.startswith("x_")], some=True)
    parts = [_array_images(path, name[2:], pixels, np.zeros(len(pixels), np.int64)) for name, pixels in held.items()]
    return reduce(joined, parts)


def _loaded(path: Path, names: Sequence[str], *, some: bool = False) -> dict[str, np.ndarray]:
    """The arrays of those names; with `some`, those of them that are there."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            there = [name for name in names if name in file]
            if not there or (len(there) < len(names) and not some):
                missing = [name for name in names if name not in there]
                raise InputError(
                    f"{path} lacks {', '.join(missing)} (it holds {', '.join(file.files) or 'nothing'}); "
                    f"expected {', '.join(names)}"
                )
            return {name: file[name] for name in there}
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds on what is no .npz, or would need code to be run
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); expected an .npz of plain arrays, no objects") from None


def _array_images(path: Path, split_name: str, pixels: np.ndarray, labels: np.ndarray) -> Images:
    if pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[-1] == 1):  # grey
        pixels = np.repeat(pixels.reshape(*pixels.shape[:3], 1), 3, axis=-1)
    fits = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[-1] == 3 and all(pixels.shape[1:])
    if not fits or len(pixels) != len(labels):
        raise InputError(
            f"{path}: x_{split_name} is {pixels.dtype} {pixels.shape} with {len(labels)} labels; "
            "expected uint8 (n, height, width, 3) and n labels"
        )
    shape = repr(pixels.shape[1:]).encode()
    hashes = tuple(hashlib.sha256(shape + picture.tobytes()).hexdigest() for picture in pixels)
    ids = tuple(f"{split_name}/{row}" for row in range(len(pixels)))
    return Images(_Arrays(pixels), np.arange(len(pixels)), ids, labels.astype(np.int64), hashes)


# --- labels


def _joined(where: Path, parts: Sequence[np.ndarray]) -> np.ndarray:
    """One after the other. Raises InputError where some are words and others numbers."""
    if len({part.dtype.kind == "U" for part in parts}) > 1:
        raise InputError(f"{where} has numbers for labels in one part and words in another; {_EXPECTED}")
    return np.concatenate(parts)


def _numbered(
    path: Path, parts: Sequence[np.ndarray], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of the classes, and the labels of each split as their numbers.

    Words are classes in the order of the alphabet, as folders are; numbers that nobody named are called by themselves.
    Raises InputError for labels that fit neither.
    """
    labels = _joined(path, parts)
    if labels.dtype.kind == "U":
        words, labels = np.unique(labels, return_inverse=True)
        names = tuple(map(str, words))
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if low < 0 or high >= (len(names) if names else max(len(labels), 1)):
        told = f", {len(names)} class names" if names else ""
        raise InputError(f"{path} has labels from {low} to {high}, {len(labels)} pictures{told}; {_EXPECTED}")
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return names or tuple(map(str, range(high + 1))), np.split(labels, ends)
