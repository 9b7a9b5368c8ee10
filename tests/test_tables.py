"""Parquet and .npz: what was written against what is read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import toy
from poisonfrogs import data
from poisonfrogs.types import InputError

# --- parquet


def rows(count: int, seed: int) -> tuple[list[bytes], list[int]]:
    """Stored pictures and their labels, 0 and 1 in turn."""
    contents = []
    for number in range(count):
        out = io.BytesIO()
        toy.picture(list(toy.CLASSES.values())[number % 2], seed + number, (8, 8)).save(out, "PNG")
        contents.append(out.getvalue())
    return contents, [number % 2 for number in range(count)]


def write(
    path: Path,
    contents: list,
    labels: list,
    *,
    column: str = "img",
    label: str = "label",
    names: object = ("blue", "red"),
) -> Path:
    """As the datasets library writes: struct of bytes and path, class names in the schema's metadata."""
    pictures = pa.array(
        [None if content is None else {"bytes": content, "path": None} for content in contents],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({column: pictures, label: labels})
    if names:
        info = {"info": {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def sha(contents: list[bytes]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)


@pytest.mark.parametrize(
    "test_name", ["test-00000-of-00001.parquet", "validation-00000-of-00001.parquet", "test/0000.parquet"]
)
def test_the_hub_s_layout(tmp_path: Path, test_name: str) -> None:
    contents, labels = rows(20, 0)
    others, other_labels = rows(4, 100)
    for shard in range(2):
        mine = slice(shard * 10, shard * 10 + 10)
        write(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet", contents[mine], labels[mine])
    write(tmp_path / "data" / test_name, others, other_labels)
    read = data.load(tmp_path)
    assert read.classes == ("blue", "red")
    assert (read.train.hashes, read.train.labels.tolist()) == (sha(contents), labels)
    assert (read.test.hashes, read.test.labels.tolist()) == (sha(others), other_labels)
    assert read.train.ids[13] == "train/13"
    assert read.test.ids[-1] == "test/3"
    for i in (13, 0, 19, 7):  # across shards and row groups, out of order
        expected = toy.picture(list(toy.CLASSES.values())[i % 2], i, (8, 8))
        np.testing.assert_array_equal(np.asarray(read.train[i]), np.asarray(expected))


@pytest.mark.parametrize(("column", "label"), [("image", "labels"), ("img", "fine_label")])
def test_the_hub_s_other_names_of_columns(tmp_path: Path, column: str, label: str) -> None:
    contents, labels = rows(8, 0)
    write(tmp_path / "train-0.parquet", contents, labels, column=column, label=label)
    write(tmp_path / "test-0.parquet", *rows(4, 100), column=column, label=label)
    read = data.load(tmp_path)
    assert (read.classes, read.train.hashes, read.train.labels.tolist()) == (("blue", "red"), sha(contents), labels)


def test_each_file_may_have_other_names_of_columns(tmp_path: Path) -> None:
    contents, labels = rows(20, 0)
    write(tmp_path / "a.parquet", contents[:10], labels[:10], column="img", label="label")
    write(tmp_path / "b.parquet", contents[10:], labels[10:], column="image", label="fine_label")
    read = data.load(tmp_path)
    assert sorted(read.train.hashes + read.test.hashes) == sorted(sha(contents))


def test_rows_of_parquet_go_to_other_processes(tmp_path: Path) -> None:
    contents, labels = rows(20, 0)
    images = data.load(write(tmp_path / "a.parquet", contents, labels)).train
    again = pickle.loads(pickle.dumps(images))
    assert again.ids == images.ids
    assert [picture.tobytes() for picture in again] == [picture.tobytes() for picture in images]


def test_of_a_validation_and_a_test_split_the_first_is_taken(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("validation", 50), ("test", 90)):
        write(tmp_path / f"{name}-00000-of-00001.parquet", *rows(6, seed))
    assert data.load(tmp_path).test.hashes == sha(rows(6, 50)[0])


def test_parquet_without_names_and_with_the_other_column(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", *rows(6, 0), column="image", names=None)
    contents, labels = rows(3, 50)
    write(tmp_path / "test.parquet", [*contents, contents[0]], [*labels, 2], column="image", names=None)
    write(tmp_path / "train.parquet", [*rows(6, 0)[0], contents[1]], [*rows(6, 0)[1], 2], column="image", names=None)
    assert data.load(tmp_path).classes == ("0", "1", "2")


def test_classes_without_names_are_counted_over_both_splits(tmp_path: Path) -> None:
    contents, _ = rows(6, 0)
    write(tmp_path / "train.parquet", contents, [0, 1, 2, 0, 1, 2], names=None)
    write(tmp_path / "test.parquet", rows(4, 50)[0], [0, 1, 0, 1], names=None)
    with pytest.raises(InputError, match=r"class '2' of .* has no readable test picture"):
        data.load(tmp_path)


def test_a_single_parquet_file_is_split_by_content(tmp_path: Path) -> None:
    contents, labels = rows(60, 0)
    read = data.load(write(tmp_path / "pictures.parquet", contents, labels))
    for part in (read.train, read.test):
        for identity, label, content in zip(part.ids, part.labels, part.hashes, strict=True):
            row = int(identity.removeprefix("all/"))
            assert (sha(contents)[row], labels[row]) == (content, label)
    assert len(read.train) + len(read.test) == 60


def test_rows_without_bytes_are_left_out_with_the_reason(tmp_path: Path) -> None:
    contents, labels = rows(9, 0)
    write(tmp_path / "train.parquet", [None, b"", *contents[2:]], labels)
    write(tmp_path / "test.parquet", *rows(4, 50))
    read = data.load(tmp_path)
    assert read.skipped == {"train/0": "no bytes", "train/1": "zero bytes"}
    assert read.train.ids[0] == "train/2"
    assert read.train.hashes == sha(contents[2:])


def test_plain_bytes_do_as_well(tmp_path: Path) -> None:
    contents, labels = rows(30, 0)
    pq.write_table(pa.table({"image": contents, "label": labels}), tmp_path / "a.parquet")
    assert len(data.load(tmp_path).train) > 15


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), path)


def fractions_for_labels(path: Path) -> None:
    write(path, rows(2, 0)[0], [0.0, 1.0])


def an_empty_word(path: Path) -> None:
    write(path, rows(2, 0)[0], ["blue", ""], names=None)


def a_missing_word(path: Path) -> None:
    write(path, rows(2, 0)[0], ["blue", None], names=None)


def missing_labels(path: Path) -> None:
    write(path, rows(2, 0)[0], [0, None])


def labels_beyond_names(path: Path) -> None:
    write(path, rows(2, 0)[0], [0, 2])


def negative_labels(path: Path) -> None:
    write(path, rows(2, 0)[0], [0, -1])


def huge_labels(path: Path) -> None:
    write(path, rows(2, 0)[0], [0, 10**12], names=None)


def numbers_for_pictures(path: Path) -> None:
    pq.write_table(pa.table({"img": [1, 2], "label": [0, 1]}), path)


def no_parquet(path: Path) -> None:
    path.write_bytes(b"PAR1 it is not")


def cut_off(path: Path) -> None:
    write(path, *rows(9, 0))
    path.write_bytes(path.read_bytes()[:-100])


def broken_metadata(path: Path) -> None:
    table = pa.table({"img": rows(2, 0)[0], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), path)


def deep_metadata(path: Path) -> None:
    table = pa.table({"img": rows(2, 0)[0], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": "[" * 200_000}), path)


def named(path: Path, names: object) -> None:
    info = {"info": {"features": {"label": {"names": names}}}}
    table = pa.table({"img": rows(2, 0)[0], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path)


def numbers_for_names(path: Path) -> None:
    named(path, [1, 2])


def letters_for_names(path: Path) -> None:
    named(path, "ab")


def a_name_twice(path: Path) -> None:
    named(path, ["a", "a"])


REFUSED_PARQUET = {
    other_columns: "has the columns pixels, label; expected img (or image) and label (or labels, fine_label)",
    fractions_for_labels: "has labels of double, 0 missing; expected class numbers from 0, or names of classes",
    an_empty_word: "has labels of string, 1 missing",
    a_missing_word: "has labels of string, 1 missing",
    missing_labels: "1 missing; expected class numbers",
    labels_beyond_names: "labels from 0 to 2, 2 pictures, 2 class names",
    negative_labels: "labels from -1 to 0",
    huge_labels: "labels from 0 to 1000000000000",
    numbers_for_pictures: "img holds int, not bytes",
    no_parquet: "cannot be read as a parquet file of pictures",
    cut_off: "cannot be read as a parquet file of pictures",
    broken_metadata: "cannot be read as a parquet file of pictures",
    deep_metadata: "cannot be read as a parquet file of pictures",
    numbers_for_names: "its class names are [1, 2], not a list of words",
    letters_for_names: "its class names are 'ab', not a list of words",
    a_name_twice: "a class name stands twice among its 2",
}


@pytest.mark.parametrize("spoil", REFUSED_PARQUET, ids=lambda spoil: spoil.__name__)
def test_parquet_that_cannot_be_used(tmp_path: Path, spoil) -> None:
    spoil(tmp_path / "x.parquet")
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(InputError) as refused:
            data.load(path)
        assert REFUSED_PARQUET[spoil] in str(refused.value)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_words_for_labels_are_classes_in_the_order_of_the_alphabet(tmp_path: Path, kind: pa.DataType) -> None:
    for name, words in (("train", ["sky", "ape", "sky", "cat"]), ("test", ["cat", "sky", "ape"])):
        write(tmp_path / f"{name}.parquet", rows(len(words), 0)[0], pa.array(words).cast(kind), names=None)
    read = data.load(tmp_path)
    assert read.classes == ("ape", "cat", "sky")
    assert read.train.labels.tolist() == [2, 0, 2, 1]
    assert read.test.labels.tolist() == [1, 2, 0]


def test_all_rows_are_pictures_whatever_their_file_is_called(tmp_path: Path) -> None:
    """Of no split and no class, or of one class alone: where no audit is asked for, all of them count."""
    made = {name: rows(3, 10 * i)[0] for i, name in enumerate(("train-0", "validation-0", "test", "more/extra"))}
    for name, contents in made.items():
        write(tmp_path / f"{name}.parquet", contents, [0] * 3, names=None)
    pq.write_table(pa.table({"image": rows(2, 90)[0]}), tmp_path / "unlabelled.parquet")
    found, skipped = data.pictures(tmp_path)
    assert not skipped
    assert found.hashes == sha(
        [*made["train-0"], *made["validation-0"], *made["more/extra"], *made["test"], *rows(2, 90)[0]]
    )
    assert found.ids[::3] == ("train/0", "test/0", "more/extra.parquet/0", "test.parquet/0", "unlabelled.parquet/0")
    assert data.pictures(tmp_path / "unlabelled.parquet")[0].ids == ("all/0", "all/1")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match=r"has the columns label; expected img \(or image\)$"):
        data.pictures(tmp_path)


def test_words_in_one_part_and_numbers_in_the_other(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", rows(4, 0)[0], ["a", "b", "a", "b"], names=None)
    write(tmp_path / "test-0.parquet", rows(2, 7)[0], [0, 1], names=None)
    with pytest.raises(InputError, match="numbers for labels in one part and words in another"):
        data.load(tmp_path)
    write(tmp_path / "train-1.parquet", rows(2, 9)[0], [0, 1], names=None)  # and so within a split
    with pytest.raises(InputError, match="numbers for labels in one part and words in another"):
        data.load(tmp_path)


def test_parquet_splits_must_name_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", *rows(6, 0))
    write(tmp_path / "test.parquet", *rows(6, 9), names=("red", "blue"))
    with pytest.raises(InputError, match="different classes"):
        data.load(tmp_path)


def test_the_hub_s_own_cifar10_is_read(shared: Path) -> None:
    file = shared / "data" / "cifar10" / "plain_text" / "test-00000-of-00001.parquet"
    read = data.load(file)
    column = pq.read_table(file, columns=["label"]).column(0).to_pylist()
    assert read.classes[6] == "frog"
    assert len(read.train) + len(read.test) == len(column) == 10_000
    assert all(column[int(i.removeprefix("all/"))] == y for i, y in zip(read.test.ids, read.test.labels, strict=True))
    assert read.test[0].size == (32, 32)


# --- arrays


def arrays(**changed: object) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    whole = {
        "x_train": generator.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_test": generator.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([0, 1]),
    }
    return {**whole, **changed}


@pytest.mark.parametrize("kind", ["column", "int64", "uint8"])
def test_arrays_of_colour(tmp_path: Path, kind: str) -> None:
    given = arrays()
    labels = given["y_train"].reshape(-1, 1) if kind == "column" else given["y_train"].astype(kind)
    np.savez(tmp_path / "x.npz", **{**given, "y_train": labels})
    read = data.load(tmp_path / "x.npz")
    assert read.classes == ("0", "1")
    assert read.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert read.test.ids == ("test/0", "test/1")
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in read.train]), given["x_train"])


@pytest.mark.parametrize("channels", [(), (1,)])
def test_arrays_of_grey(tmp_path: Path, channels: tuple[int, ...]) -> None:
    grey = np.arange(6 * 20, dtype=np.uint8).reshape(6, 5, 4, *channels)
    np.savez_compressed(tmp_path / "x.npz", **arrays(x_train=grey))
    read = data.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(np.asarray(read.train[3])[..., 1], grey[3].reshape(5, 4))


def test_the_same_pixels_in_another_shape_are_another_picture(tmp_path: Path) -> None:
    one = np.zeros((2, 2, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", **arrays(x_train=one, y_train=np.array([0, 1]), x_test=one.reshape(2, 4, 4, 3)))
    read = data.load(tmp_path / "x.npz")
    assert not set(read.train.hashes) & set(read.test.hashes)
    assert len(set(read.train.hashes)) == 1


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


REFUSED_ARRAYS = {
    "floats": (arrays(x_train=np.zeros((6, 5, 4, 3), np.float32)), "x_train is float32 (6, 5, 4, 3) with 6 labels"),
    "channels first": (arrays(x_test=np.zeros((2, 3, 5, 4), np.uint8)), "x_test is uint8 (2, 3, 5, 4)"),
    "other lengths": (arrays(y_train=np.array([0, 1])), "with 2 labels"),
    "nothing in them": (arrays(x_train=np.zeros((6, 0, 4, 3), np.uint8)), "x_train is uint8 (6, 0, 4, 3)"),
    "words on one side only": (arrays(y_test=np.array(["a", "b"])), "words in another; expected class numbers from 0"),
    "labels that are bytes": (arrays(y_test=np.array([b"a", b"b"])), "y_test holds |S1; expected class numbers from 0"),
    "labels with a fraction": (arrays(y_test=np.array([0.0, 1.0])), "float64; expected class numbers from 0"),
    "negative labels": (arrays(y_test=np.array([0, -1])), "labels from -1"),
    "huge labels": (arrays(y_test=np.array([0, 10**15])), "to 1000000000000000"),
    "a gap in the labels": (arrays(y_test=np.array([0, 3])), "class '2' of"),
    "no pictures": ({name: value[:0] for name, value in arrays().items()}, "holds no classes"),
    "missing names": ({"x_train": np.zeros(3), "images": np.zeros(1)}, "lacks y_train, x_test, y_test (it holds x_"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_ARRAYS)
def test_arrays_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    given, message = REFUSED_ARRAYS[name]
    np.savez(tmp_path / "x.npz", **given)
    with pytest.raises(InputError) as refused:
        data.load(tmp_path / "x.npz")
    assert message in str(refused.value)


def test_arrays_of_one_split_and_no_labels_are_pictures(tmp_path: Path) -> None:
    held = arrays()
    np.savez(tmp_path / "x.npz", x_test=held["x_test"])
    found, _ = data.pictures(tmp_path / "x.npz")
    assert found.ids == ("test/0", "test/1")
    np.savez(tmp_path / "x.npz", **held)
    assert len(data.pictures(tmp_path / "x.npz")[0]) == len(held["x_train"]) + len(held["x_test"])
    np.savez(tmp_path / "x.npz", y_test=held["y_test"])
    with pytest.raises(InputError, match=r"lacks x_train, x_test \(it holds y_test\); expected x_train, x_test"):
        data.pictures(tmp_path / "x.npz")


def test_words_for_labels_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays(y_train=np.array(list("babbab")), y_test=np.array(["b", "a"])))
    read = data.load(tmp_path / "x.npz")
    assert read.classes == ("a", "b")
    assert read.train.labels.tolist() == [1, 0, 1, 1, 0, 1]
    assert read.test.labels.tolist() == [1, 0]


def test_objects_in_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    objects = np.empty(6, dtype=object)
    objects[:] = [Payload(tmp_path / "ran")] * 6
    np.savez(tmp_path / "x.npz", **arrays(y_train=objects))
    with pytest.raises(InputError, match=r"expected an \.npz of plain arrays, no objects"):
        data.load(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x93NUMPY\x01\0", b"PK\x03\x04" + bytes(30)])
def test_files_that_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        data.load(tmp_path / "x.npz")


def test_an_array_that_claims_more_than_memory_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays())
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as out, zipfile.ZipFile(tmp_path / "x.npz") as whole:
        for name in whole.namelist():
            claims = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header
            out.writestr(name, claims if name == "x_train.npy" else whole.read(name))
    with pytest.raises(InputError, match="cannot be read"):
        data.load(tmp_path / "y.npz")
