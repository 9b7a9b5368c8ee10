"""Layouts: what lies on the disk against what is read, ids, labels, contents and all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy
from PIL import Image

from poisonfrogs import data
from poisonfrogs.images import Edited, Images, split
from poisonfrogs.pictures import Unreadable
from poisonfrogs.types import Edit, InputError

# --- image folders


def on_disk(images: Images, root: Path, classes: tuple[str, ...]) -> set[tuple[str, str, str]]:
    """(id, class, SHA-256), checked against the files the ids name."""
    found = set()
    for identity, label, content in zip(images.ids, images.labels, images.hashes, strict=True):
        assert hashlib.sha256((root / identity).read_bytes()).hexdigest() == content
        found.add((identity, classes[label], content))
    assert len(found) == len(images)
    return found


def walked(part: Path, root: Path) -> set[tuple[str, str, str]]:
    """The same by other means."""
    return {
        (
            file.relative_to(root).as_posix(),
            file.relative_to(part).parts[0],
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in part.glob("*/**/*.png")
    }


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_folder_that_names_its_splits(toy_folder: Path, name: str) -> None:
    (toy_folder / "val").rename(toy_folder / name)
    read = data.load(toy_folder)
    assert read.classes == ("blue", "red")
    assert on_disk(read.train, toy_folder, read.classes) == walked(toy_folder / "train", toy_folder)
    assert on_disk(read.test, toy_folder, read.classes) == walked(toy_folder / name, toy_folder)
    assert list(read.train.ids) == sorted(read.train.ids)
    assert read.skipped == {}


def test_pictures_are_decoded_on_demand(toy_folder: Path) -> None:
    read = data.load(toy_folder)
    row = read.train.ids.index("train/red/07.png")
    expected = np.asarray(Image.open(toy_folder / "train/red/07.png"))
    np.testing.assert_array_equal(np.asarray(read.train[row]), expected)
    assert len(list(read.train)) == len(read.train) == 24
    (toy_folder / "train/red/07.png").unlink()
    with pytest.raises(Unreadable, match="No such file"):
        read.train[row]


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """blue/ and red/, 60 pictures each, no splits."""
    root = tmp_path / "classes"
    toy.write_folder(root, train=60, test=1)
    shutil.rmtree(root / "val")
    for name in toy.CLASSES:
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()
    return root


def test_class_folders_are_split_by_content(class_folders: Path) -> None:
    read = data.load(class_folders)
    both = on_disk(read.train, class_folders, read.classes) | on_disk(read.test, class_folders, read.classes)
    assert both == walked(class_folders, class_folders)
    assert len(read.train) + len(read.test) == 120
    assert 10 <= len(read.test) <= 38  # a fifth of 120, give or take three standard deviations
    assert set(read.test.labels) == {0, 1}


def test_a_single_train_folder_is_split_the_same_way(class_folders: Path) -> None:
    before = data.load(class_folders)
    outer = class_folders.with_name("outer")
    outer.mkdir()
    class_folders.rename(outer / "train")
    assert data.load(outer).test.hashes == before.test.hashes


def test_a_class_may_be_called_train(class_folders: Path) -> None:
    (class_folders / "red").rename(class_folders / "train")
    assert data.load(class_folders).classes == ("blue", "train")


def test_copies_fall_on_the_same_side_and_a_new_picture_moves_no_other(class_folders: Path) -> None:
    before = data.load(class_folders)
    for number, identity in enumerate(before.test.ids + before.train.ids):
        shutil.copy(class_folders / identity, class_folders / "blue" / f"copy{number}.png")
    for seed in range(1000, 1030):
        toy.picture((9, 9, 9), seed).save(class_folders / "red" / f"new{seed}.png")
    after = data.load(class_folders)
    assert set(before.test.ids) <= set(after.test.ids)
    assert set(before.train.ids) <= set(after.train.ids)
    assert not set(after.test.hashes) & set(after.train.hashes)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_small_class_has_pictures_on_both_sides(tmp_path: Path, count: int) -> None:
    for start in range(0, 200, 20):
        root = tmp_path / str(start)
        for name, colour in toy.CLASSES.items():
            (root / name).mkdir(parents=True)
            for seed in range(count):
                toy.picture(colour, start + seed, (4, 4)).save(root / name / f"{seed}.png")
        read = data.load(root)
        assert set(read.train.labels) == set(read.test.labels) == {0, 1}
        assert not set(read.train.hashes) & set(read.test.hashes)


def test_nested_folders_belong_to_their_class(toy_folder: Path) -> None:
    deep = toy_folder / "train" / "red" / "2019" / "spring"
    deep.mkdir(parents=True)
    toy.picture((200, 0, 0), 77).save(deep / "x.JPG", "PNG")
    read = data.load(toy_folder)
    row = read.train.ids.index("train/red/2019/spring/x.JPG")
    assert read.classes[read.train.labels[row]] == "red"


def test_links_to_files_and_folders_are_followed(toy_folder: Path, tmp_path: Path) -> None:
    plain = data.load(toy_folder)
    store = tmp_path / "store"  # as the hub's cache and DVC lay files out: links to content
    store.mkdir()
    linked = tmp_path / "linked"
    for number, identity in enumerate(plain.train.ids + plain.test.ids):
        shutil.copy(toy_folder / identity, store / str(number))
        (linked / identity).parent.mkdir(parents=True, exist_ok=True)
        (linked / identity).symlink_to(store / str(number))
    read = data.load(linked)
    assert (read.train.ids, read.train.hashes) == (plain.train.ids, plain.train.hashes)
    (tmp_path / "folders").mkdir()
    for name in ("train", "val"):
        (tmp_path / "folders" / name).symlink_to(toy_folder / name)
    assert data.load(tmp_path / "folders").fingerprint() == plain.fingerprint() == read.fingerprint()


def test_links_in_a_circle_end(toy_folder: Path) -> None:
    plain = data.load(toy_folder)
    (toy_folder / "train" / "red" / "around").symlink_to(toy_folder / "train")
    (toy_folder / "train" / "red" / "self").symlink_to("self")
    (toy_folder / "train" / "red" / "here").symlink_to(".")
    read = data.load(toy_folder)
    assert set(plain.train.ids) <= set(read.train.ids)
    assert len(read.train.ids) < 3 * len(plain.train.ids)


def test_hidden_files_and_other_files_are_not_pictures(toy_folder: Path) -> None:
    plain = data.load(toy_folder)
    (toy_folder / ".git").mkdir()
    (toy_folder / "train" / ".cache").mkdir()
    (toy_folder / "train" / "red" / "._00.png").write_bytes(b"a resource fork")
    (toy_folder / "train" / "red" / "Thumbs.db").write_bytes(b"x")
    (toy_folder / "train" / "red" / "README.md").write_text("x")
    (toy_folder / ".cache.parquet").write_bytes(b"x")
    read = data.load(toy_folder)
    assert read.skipped == {}
    assert read.fingerprint() == plain.fingerprint()


def test_what_is_named_like_a_picture_and_is_none_is_left_out_with_the_reason(toy_folder: Path) -> None:
    red = toy_folder / "train" / "red"
    (red / "empty.png").write_bytes(b"")
    (red / "folder.jpg").mkdir()
    toy.picture((1, 2, 3), 5).save(red / "folder.jpg" / "inside.png")
    (red / "gone.jpg").symlink_to("nowhere")
    (red / "null.png").symlink_to("/dev/null")
    os.mkfifo(red / "pipe.png")  # opening it would wait for ever
    read = data.load(toy_folder)
    assert read.skipped == {
        "train/red/empty.png": "zero bytes",
        "train/red/folder.jpg": "not a file",
        "train/red/gone.jpg": "a broken link",
        "train/red/null.png": "not a file",
        "train/red/pipe.png": "not a file",
    }
    assert len(read.train) == 24


def test_a_vector_drawing_is_reported_rather_than_passed_over(toy_folder: Path) -> None:
    (toy_folder / "train" / "red" / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    read = data.load(toy_folder)
    with pytest.raises(Unreadable, match="not a picture"):
        read.train.decode(read.train.ids.index("train/red/a.svg"))


@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe.png",
        "två\nrader.png".encode(),
        b"<script>alert(1)</script>.png".replace(b"/", b"_"),
        b" .png",
        b"'\"%.png",
    ],
)
def test_odd_names_stay_ids(toy_folder: Path, name: bytes) -> None:
    path = os.fsencode(toy_folder / "train" / "red") + b"/" + name
    shutil.copy(toy_folder / "train" / "red" / "00.png", path)
    read = data.load(toy_folder)
    identity = "train/red/" + os.fsdecode(name)
    row = read.train.ids.index(identity)
    assert json.loads(json.dumps(read.train.ids[row])) == identity
    assert read.train[row].size == (32, 32)
    assert len(read.fingerprint()) == 64


def test_sizes_may_differ(toy_folder: Path) -> None:
    toy.picture((200, 0, 0), 77, (64, 20)).save(toy_folder / "train" / "red" / "wide.png")
    read = data.load(toy_folder)
    assert read.train[read.train.ids.index("train/red/wide.png")].size == (64, 20)


def only_red(root: Path) -> None:
    shutil.rmtree(root / "train" / "blue")
    shutil.rmtree(root / "val" / "blue")


def empty_class(root: Path) -> None:
    (root / "train" / "green").mkdir()


def only_in_val(root: Path) -> None:
    (root / "val" / "green").mkdir()
    toy.picture((0, 200, 0), 1).save(root / "val" / "green" / "0.png")


def no_pictures(root: Path) -> None:
    for part in ("train", "val"):
        shutil.rmtree(root / part)


def only_zero_bytes(root: Path) -> None:
    for file in (root / "val" / "red").iterdir():
        file.write_bytes(b"")


def a_file_for_a_class(root: Path) -> None:
    shutil.rmtree(root / "val" / "red")
    (root / "val" / "red").write_bytes(b"x")


REFUSED_FOLDERS = {
    "one class": (only_red, "holds one class ('red'); poisoning needs at least two"),
    "an empty class": (empty_class, "class 'green' of"),
    "a class in val alone": (only_in_val, "has no readable training picture"),
    "no pictures": (no_pictures, "holds no classes"),
    "a class of empty files": (only_zero_bytes, "class 'red' of"),
}


@pytest.mark.parametrize("name", REFUSED_FOLDERS)
def test_folders_that_cannot_be_used(toy_folder: Path, name: str) -> None:
    spoil, message = REFUSED_FOLDERS[name]
    spoil(toy_folder)
    with pytest.raises(InputError) as refused:
        data.load(toy_folder)
    assert message in str(refused.value)


def test_a_file_where_a_class_folder_belongs_is_an_error(toy_folder: Path) -> None:
    a_file_for_a_class(toy_folder)
    with pytest.raises(OSError, match="Not a directory"):
        data.load(toy_folder)


def test_paths_that_hold_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "x.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkfifo(tmp_path / "pipe.parquet")
    for name in ("nowhere", "x.txt", "x.npz", "pipe.npz", "pipe.parquet"):
        with pytest.raises(InputError, match="expected a folder with train/CLASS"):
            data.load(tmp_path / name)


def test_the_bundled_pictures_have_a_name() -> None:
    read = data.load("frogs-and-planes")
    assert read.classes == ("airplane", "frog")
    assert [np.bincount(part.labels).tolist() for part in (read.train, read.test)] == [[500, 500], [100, 100]]


# --- parquet


def rows(count: int, seed: int) -> tuple[list[bytes], list[int]]:
    """Stored pictures and their labels, 0 and 1 in turn."""
    import io

    contents = []
    for number in range(count):
        out = io.BytesIO()
        toy.picture(list(toy.CLASSES.values())[number % 2], seed + number, (8, 8)).save(out, "PNG")
        contents.append(out.getvalue())
    return contents, [number % 2 for number in range(count)]


def write(path: Path, contents: list, labels: list, *, column: str = "img", names: object = ("blue", "red")) -> Path:
    """As the datasets library writes: struct of bytes and path, class names in the schema's metadata."""
    pictures = pa.array(
        [None if content is None else {"bytes": content, "path": None} for content in contents],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({column: pictures, "label": labels})
    if names:
        info = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
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


def words_for_labels(path: Path) -> None:
    write(path, rows(2, 0)[0], ["blue", "red"])


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


REFUSED_PARQUET = {
    other_columns: "has the columns pixels, label; expected img (or image) and label",
    words_for_labels: "has labels of string, 0 missing; expected class numbers",
    missing_labels: "1 missing; expected class numbers",
    labels_beyond_names: "labels from 0 to 2, 2 pictures, 2 class names",
    negative_labels: "labels from -1 to 0",
    huge_labels: "labels from 0 to 1000000000000",
    numbers_for_pictures: "img holds int, not bytes",
    no_parquet: "cannot be read as a parquet file of pictures",
    cut_off: "cannot be read as a parquet file of pictures",
    broken_metadata: "cannot be read as a parquet file of pictures",
}


@pytest.mark.parametrize("spoil", REFUSED_PARQUET, ids=lambda spoil: spoil.__name__)
def test_parquet_that_cannot_be_used(tmp_path: Path, spoil) -> None:
    spoil(tmp_path / "x.parquet")
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(InputError) as refused:
            data.load(path)
        assert REFUSED_PARQUET[spoil] in str(refused.value)


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
    "labels that are no numbers": (arrays(y_test=np.array(["a", "b"])), "expected class numbers from 0"),
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


# --- what is done with them


def test_leaving_rows_out_keeps_the_rest_and_says_why(toy_folder: Path) -> None:
    read = data.load(toy_folder)
    less = read.without({0: "torn", 5: "torn"}, {7: "a bomb"})
    assert less.skipped == {read.train.ids[0]: "torn", read.train.ids[5]: "torn", read.test.ids[7]: "a bomb"}
    assert less.train.ids == tuple(i for n, i in enumerate(read.train.ids) if n not in (0, 5))
    assert np.array_equal(np.asarray(less.test[-1]), np.asarray(read.test[6]))
    with pytest.raises(InputError, match=r"class 'blue' of .* has no readable test picture"):
        read.without({}, dict.fromkeys(range(4), "torn"))


def test_the_fingerprint_knows_ids_labels_and_contents(toy_folder: Path) -> None:
    before = data.load(toy_folder).fingerprint()
    assert data.load(toy_folder).fingerprint() == before
    renamed = toy_folder / "train" / "red" / "000.png"
    (toy_folder / "train" / "red" / "00.png").rename(renamed)
    assert data.load(toy_folder).fingerprint() != before
    renamed.rename(toy_folder / "train" / "red" / "00.png")
    assert data.load(toy_folder).fingerprint() == before
    toy.picture((1, 1, 1), 1).save(toy_folder / "train" / "red" / "00.png")
    assert data.load(toy_folder).fingerprint() != before


def test_an_edit_adds_and_removes_without_touching_the_set(toy_folder: Path) -> None:
    train = data.load(toy_folder).train
    poison = toy.picture((5, 5, 5), 1)
    edited = Edited(train, Edit(added=(poison,), label=1, removed=(0, 23)))
    assert len(edited) == len(list(edited)) == 23
    assert edited[22] is edited[-1] is poison
    np.testing.assert_array_equal(np.asarray(edited[0]), np.asarray(train[1]))
    assert edited.labels(train.labels).tolist() == [0] * 11 + [1] * 11 + [1]
    assert len(train) == 24
    with pytest.raises(IndexError):
        edited[23]


def test_joined_sets_and_single_files(toy_folder: Path) -> None:
    read = data.load(toy_folder)
    path = str(toy_folder / "train" / "red" / "03.png")
    both = data.joined(read.test, data.files([path], [1]))
    assert both.ids == (*read.test.ids, path)
    assert both.labels.tolist() == [0] * 4 + [1] * 5
    np.testing.assert_array_equal(np.asarray(both[8]), np.asarray(Image.open(path)))
    np.testing.assert_array_equal(np.asarray(both[2]), np.asarray(read.test[2]))
    with pytest.raises(InputError, match="cannot be read"):
        data.files([str(toy_folder)], [0])


def test_a_split_of_one_picture_leaves_one_side_empty_rather_than_both() -> None:
    one = Images(None, np.arange(1), ("a",), np.zeros(1, dtype=np.int64), ("0" * 64,))  # type: ignore[arg-type]
    assert sorted(map(len, split(one))) == [0, 1]
