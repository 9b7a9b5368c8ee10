"""Pictures in tables: parquet as the hub lays it out (a struct of bytes and path, and a class number), and .npz."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poisonfrogs.images import TEST_NAMES, Images, Splits, split
from poisonfrogs.pictures import Unreadable
from poisonfrogs.types import InputError

_KEPT_GROUPS = 4  # row groups of a table that stay in memory
# the hub's names of columns, the first that is there
PICTURES = ("img", "image")
LABELS = ("label", "labels", "fine_label")
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


# --- parquet


class _Parquet:
    """Rows of parquet files; the last few row groups read are kept."""

    def __init__(self, files: Sequence[Any], column: str) -> None:
        self.column = column
        self.groups = [(file, group) for file in files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self.groups]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.kept: OrderedDict[int, list[Any]] = OrderedDict()
        self.lock = threading.Lock()  # pictures are decoded in threads

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        with self.lock:
            value = self._group(group)[row - int(self.starts[group])]
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None and not isinstance(content, bytes):
            raise TypeError(f"{self.column} holds {type(content).__name__}, not bytes")
        if not content:
            raise Unreadable("no bytes" if content is None else "zero bytes")
        return content

    def _group(self, group: int) -> list[Any]:
        if group not in self.kept:
            file, number = self.groups[group]
            self.kept[group] = file.read_row_group(number, columns=[self.column]).column(0).to_pylist()
            if len(self.kept) > _KEPT_GROUPS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        return self.kept[group]


@dataclass(frozen=True, eq=False)
class _Table:
    source: _Parquet
    labels: np.ndarray  # (n,) integers
    names: tuple[str, ...] | None  # of the classes, where the files tell


def read_parquet(root: Path, files: Sequence[Path]) -> Splits:
    """Ids, labels and content hashes of every row. Raises InputError for other columns than the hub's."""
    tables = {name: _open(members) for name, members in _shards(root, files).items()}
    classes = _classes(root, list(tables.values()))
    skipped: dict[str, str] = {}
    with _readable(root):
        images = {name: _rows(name, table, skipped) for name, table in tables.items()}
    train, test = (images["train"], images["test"]) if "test" in images else split(images["all"])
    return Splits(classes, train, test, skipped, own_test="test" in images)


def _shards(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, by their own or their folders' names; all of them, where these tell no splits."""
    named: dict[str, list[Path]] = {}
    for file in files:
        own = file.name.split("-")[0].split(".")[0]
        for name in {own, *file.relative_to(root).parts[:-1]} & {"train", *TEST_NAMES}:
            named.setdefault(name, []).append(file)
    test = next((named[name] for name in TEST_NAMES if name in named), None)
    return {"train": named["train"], "test": test} if test and "train" in named else {"all": list(files)}


def _open(files: Sequence[Path]) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened, labels, names = [], [], []
    for path in files:
        with _readable(path):
            file = pq.ParquetFile(path)
            columns = file.schema_arrow.names
            column, label = (next((name for name in known if name in columns), None) for known in (PICTURES, LABELS))
            if column is None or label is None:
                expected = " and ".join(f"{known[0]} (or {', '.join(known[1:])})" for known in (PICTURES, LABELS))
                raise InputError(f"{path} has the columns {', '.join(columns)}; expected {expected}")
            numbers = file.read(columns=[label]).column(0)
            if not pa.types.is_integer(numbers.type) or numbers.null_count:
                raise InputError(
                    f"{path} has labels of {numbers.type}, {numbers.null_count} missing; expected class numbers from 0"
                )
            opened.append(file)
            labels.append(numbers.to_numpy())
            names.append(_names(file.schema_arrow, label))
    return _Table(_Parquet(opened, str(column)), np.concatenate(labels), names[0])


def _names(schema: Any, label: str) -> tuple[str, ...] | None:
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(label, {}).get("names")
    return tuple(names) if names else None


def _classes(root: Path, tables: Sequence[_Table]) -> tuple[str, ...]:
    names = tables[0].names
    if any(table.names != names for table in tables):
        raise InputError(f"the parquet files of {root} name different classes for training and test; expected the same")
    return _named(root, np.concatenate([table.labels for table in tables]), names)


def _rows(split_name: str, table: _Table, skipped: dict[str, str]) -> Images:
    keep, hashes = [], []
    for row in range(len(table.labels)):
        try:
            hashes.append(hashlib.sha256(table.source.read(row)).hexdigest())
            keep.append(row)
        except Unreadable as why:
            skipped[f"{split_name}/{row}"] = str(why)
    rows = np.array(keep, dtype=np.int64)
    ids = tuple(f"{split_name}/{row}" for row in keep)
    return Images(table.source, rows, ids, table.labels[rows].astype(np.int64), tuple(hashes))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read as a parquet file of pictures ({error}); expected the hub's layout: "
            "pictures as bytes, and class numbers"
        ) from None


# --- arrays


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 (n, h, w, 3)

    def read(self, row: int) -> np.ndarray:
        return np.ascontiguousarray(self.pixels[row])


def read_arrays(path: Path) -> Splits:
    """The pictures of an .npz. Raises InputError for other arrays, and for any that hold code."""
    x_train, y_train, x_test, y_test = _loaded(path)
    labels = np.concatenate([y_train.ravel(), y_test.ravel()])
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: y_train and y_test hold {labels.dtype}; expected class numbers from 0")
    classes = _named(path, labels, None)
    train = _array_images(path, "train", x_train, y_train.ravel())
    return Splits(classes, train, _array_images(path, "test", x_test, y_test.ravel()), {}, own_test=True)


def _loaded(path: Path) -> list[np.ndarray]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [name for name in _ARRAYS if name not in file]
            if missing:
                raise InputError(
                    f"{path} lacks {', '.join(missing)} (it holds {', '.join(file.files) or 'nothing'}); "
                    f"expected {', '.join(_ARRAYS)}"
                )
            return [file[name] for name in _ARRAYS]
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


def _named(path: Path, labels: np.ndarray, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the classes; numbers, where they have none. Raises InputError for labels that fit neither."""
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
    if low < 0 or high >= (len(names) if names else max(len(labels), 1)):
        told = f", {len(names)} class names" if names else ""
        raise InputError(
            f"{path} has labels from {low} to {high}, {len(labels)} pictures{told}; expected class numbers from 0"
        )
    return names or tuple(map(str, range(high + 1)))
