"""Layouts: what lies on the disk against what is read, ids, labels, contents and all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toy
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
    assert read.own_test
    assert read.without({0: "torn"}, {}).own_test


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
    assert not read.own_test


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


def test_jpegs_under_their_other_names_are_pictures(toy_folder: Path) -> None:
    red = toy_folder / "train" / "red"
    for name in ("a.jfif", "b.JFIF", "c.mpo"):
        toy.picture((1, 2, 3), len(name)).save(red / name, "JPEG")
    read = data.load(toy_folder).train
    assert {f"train/red/{name}" for name in ("a.jfif", "b.JFIF", "c.mpo")} <= set(read.ids)
    assert read[read.ids.index("train/red/a.jfif")].size


def test_a_picture_beside_the_class_folders_is_reported_rather_than_passed_over(toy_folder: Path) -> None:
    for place in ("x.png", "val/y.JPG", ".z.png", "notes.txt"):
        (toy_folder / place).write_bytes(b"anything")
    read = data.load(toy_folder)
    assert read.skipped == {"val/y.JPG": "in no class folder", "x.png": "in no class folder"}


@pytest.mark.parametrize("names", [("Train", "Val"), ("train", "dev"), ("training", "Test")])
def test_splits_by_other_names_are_no_classes(names: tuple[str, str], toy_folder: Path) -> None:
    for old, new in zip(("train", "val"), names, strict=True):
        (toy_folder / old).rename(toy_folder / new)
    with pytest.raises(InputError, match=rf"holds {', '.join(sorted(names))}: splits, and no classes; call them train"):
        data.load(toy_folder)


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
    assert edited[22] == edited[-1] == poison
    edited[22].paste((0, 0, 0), (0, 0, 32, 32))  # by a victim: neither the next nor the journal may see it
    assert edited[22] == poison == toy.picture((5, 5, 5), 1)
    assert [np.asarray(one).tobytes() for one in edited[20:]] == [np.asarray(edited[i]).tobytes() for i in (20, 21, 22)]
    np.testing.assert_array_equal(np.asarray(edited[0]), np.asarray(train[1]))
    assert edited.labels(train.labels).tolist() == [0] * 11 + [1] * 11 + [1]
    assert len(train) == 24
    assert train[22:] == [train[22], train[23]]
    assert train[1::-1] == [train[1], train[0]]
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


@pytest.mark.parametrize(
    ("hashes", "held_out"),
    [
        ("01f", "01"),  # below a fifth of all hashes: held out
        ("01", "0"),  # a class with nothing left to train on keeps its last
        ("00", ""),
        ("ef", "e"),  # a class with nothing to test on gives its first
        ("efef", "ee"),
        ("f", "f"),  # one picture cannot be on both sides
    ],
)
def test_chance_leaves_no_side_of_a_class_empty(hashes: str, held_out: str) -> None:
    contents = tuple(digit * 64 for digit in hashes)
    labels = np.zeros(len(hashes), dtype=np.int64)
    images = Images(None, np.arange(len(hashes)), tuple(hashes), labels, contents)  # type: ignore[arg-type]
    train, test = split(images)
    assert "".join(test.ids) == held_out
    assert sorted(train.ids + test.ids) == sorted(hashes)


def test_a_table_among_pictures_puts_none_of_them_out_of_sight(toy_folder: Path) -> None:
    (toy_folder / "cache.parquet").write_bytes(b"whatever it is")
    for read in (data.load, data.pictures):
        with pytest.raises(InputError, match=r"holds parquet files \(cache.parquet\) as well as pictures"):
            read(toy_folder)
    pictures, train = toy_folder.parent / "table", toy_folder / "train"
    (pictures / ".hidden").mkdir(parents=True)
    (pictures / "train.parquet").write_bytes(b"whatever it is")
    (pictures / ".hidden" / "a.png").write_bytes(next(train.rglob("*.png")).read_bytes())
    with pytest.raises(InputError, match=r"as well as pictures \(.hidden/a.png\)"):
        data.pictures(pictures)  # where hidden ones count
    (toy_folder / "cache.parquet").rename(toy_folder / ".cache.parquet")
    assert len(data.pictures(toy_folder)[0]) == len(data.load(toy_folder).train) + len(data.load(toy_folder).test)


def test_hidden_pictures_are_compared_though_no_audit_takes_them_for_data(toy_folder: Path) -> None:
    before = {data.load(toy_folder).fingerprint(), len(data.pictures(toy_folder)[0])}
    red = toy_folder / "train" / "red"
    (red / ".hidden").mkdir()
    for name in (".hidden/a.png", ".b.png", "._c.png"):
        toy.picture((1, 2, 3), len(name)).save(red / name)
    found, skipped = data.pictures(toy_folder)
    assert {"train/red/.hidden/a.png", "train/red/.b.png"} <= set(found.ids)
    assert "train/red/._c.png" not in found.ids
    assert not skipped
    assert {data.load(toy_folder).fingerprint(), len(found) - 2} == before
