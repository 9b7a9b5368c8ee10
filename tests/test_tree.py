"""Walking and hashing a tree: in order, nothing outside it read, nothing that changes meanwhile believed."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poisonfrogs import tree
from poisonfrogs.tree import Found
from poisonfrogs.types import InputError

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name)


def write(root: Path, *paths: bytes | str) -> bytes:
    """Files of distinct contents; the root as the walk takes it."""
    for path in paths:
        whole = os.fsencode(root) + b"/" + os.fsencode(path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "wb") as file:
            file.write(b"content of " + os.fsencode(path))
    return os.fsencode(root) + b"/"


@given(st.lists(NAMES, max_size=3))
def test_a_path_is_spelled_as_text_and_back(names: list[bytes]) -> None:
    path = b"/".join(names)
    text = tree.spell(path)
    assert tree.unspell(text) == path
    text.encode("utf-8")  # no lone surrogate: JSON that any reader takes


@pytest.mark.parametrize("text", ["%41", "%ff", "%C3%A9", "100%", "%2", "a%00b%41"])
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not how this path is spelled|codec"):
        tree.unspell(text)


ODD = [
    "a.png", "a/b.png", "a-b/c", "a0", "a/b/c/d", "ab", "A.png", "new\nline", "tab\t", b"\xff\xfe.png", "e\u0301.png", "\u00e9.png",
    "%41.png", "'quoted' \"twice\"", " ", "a/ ", ".hidden", "...", "-rf", "日本/語.png", "z" * 255,
]  # fmt: skip


def test_the_walk_is_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    root = write(tmp_path / "t", *ODD)
    everything = [
        os.path.join(folder, name)[len(root) :] for folder, _, names in os.walk(root) for name in names
    ]  # the standard library's own walk
    assert [found.path for found in tree.walk(root)] == sorted(everything)
    assert len(everything) == len(ODD)


def test_folders_deeper_than_the_stack(tmp_path: Path) -> None:
    root, deep = write(tmp_path / "t", "a"), tmp_path / "t"
    for _ in range(1500):
        deep = f"{deep}/d"
        os.mkdir(deep)
    os.symlink("a", f"{deep}/end")
    found = [len(found.path) for found in tree.walk(root)]
    subprocess.run(["rm", "-rf", tmp_path / "t"], check=True)  # too deep for pytest
    assert found == [1, 3003]


def test_hashes_are_those_of_another_program(tmp_path: Path) -> None:
    root = write(tmp_path / "t", "a", "b/c", "empty")
    (tmp_path / "t" / "empty").write_bytes(b"")
    (tmp_path / "t" / "large").write_bytes(bytes(range(256)) * 10_000)  # more than two blocks
    for entry in tree.entries(root):
        out = subprocess.run(["sha256sum", root + entry.path], capture_output=True, check=True).stdout
        assert entry.sha256 == out.split()[0].decode()
        assert (entry.size, entry.mtime_ns) == (
            os.stat(root + entry.path).st_size,
            os.stat(root + entry.path).st_mtime_ns,
        )


def test_processes_find_what_one_finds_in_the_same_order(tmp_path: Path) -> None:
    root = write(tmp_path / "t", *(f"{i % 7}/{i}" for i in range(2000)))
    os.symlink("1", root + b"3/link")
    done: list[int] = []
    several = list(tree.entries(root, processes=2, progress=done.append))
    assert several == list(tree.entries(root, processes=1))
    assert [entry.path for entry in several] == sorted(entry.path for entry in several)
    assert sum(done) == 2001


def test_a_refusal_comes_out_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "t", *(f"{i:04d}" for i in range(1500)))
    found = [Found(b"0000"), Found(b"gone")]
    with pytest.raises(InputError, match=r"gone cannot be read \(No such file"):
        list(tree._in_processes(root, iter([found]), 2))


def test_links_are_links_and_nothing_behind_them_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("outside")
    root = write(tmp_path / "t", "d/a")
    os.symlink("d/a", root + b"inside")
    os.symlink(secret, root + b"folder")
    os.symlink("../../secret/file", root + b"d/out")
    os.symlink("nowhere", root + b"broken")
    os.symlink("loop", root + b"loop")
    os.symlink(".", root + b"d/circle")
    found = {entry.path: entry for entry in tree.entries(root)}
    assert [path for path, entry in found.items() if entry.link is None] == [b"d/a"]
    assert found[b"d/out"].link == b"../../secret/file"
    assert hashlib.sha256(b"outside").hexdigest() not in {entry.sha256 for entry in found.values()}
    assert tree.survey(root).outside == ("d/out", "folder")


def test_a_link_out_through_a_link_inside_is_seen(tmp_path: Path) -> None:
    root = write(tmp_path / "t", "top/file", "q/r/file")
    os.symlink("../../top", root + b"q/r/up")
    os.symlink("up/../../x", root + b"q/r/out")  # looks like q/x, is x beside the tree
    assert tree.survey(root).outside == ("q/r/out",)


def linked(tmp_path: Path, links: dict[str, str]) -> tuple[str, ...]:
    """Which links of a tree with dog/1 and fish/9 lead outside; some may lie in ../ext."""
    root = write(tmp_path / "t", "dog/1", "fish/9")
    (tmp_path / "ext").mkdir()
    for name, target in links.items():
        os.symlink(target.format(t=tmp_path / "t"), root + os.fsencode(name))
    return tree.survey(root).outside


def test_a_way_through_a_hop_outside_leads_outside_even_if_it_comes_back(tmp_path: Path) -> None:
    links = {
        "../ext/hop": "{t}/dog/1",
        "../ext/back": "{t}",
        "dog/direct": "../../ext/hop",
        "dog/folder": "../../ext/back/fish/9",
        "by_name": "../t/dog/1",
        "absolute": "{t}/dog/1",
        "in_one": "dog/direct",
        "dog/again": "../up/1",
        "up": "./dog/../absolute_folder",
        "absolute_folder": "{t}/dog",
    }
    outside = linked(tmp_path, links)
    assert set(outside) == {name for name in links if not name.startswith("..")}


def test_a_way_that_stays_inside_is_inside(tmp_path: Path) -> None:
    links = {
        "top": ".",
        "dog/9": "../top/./top//fish/9",
        "dog/up": "..",
        "deep": "dog/up/dog/up/fish/",
        "none": "fish/no/../x",
    }
    assert linked(tmp_path, links) == ()


@pytest.mark.parametrize("count", [40, 41])
def test_links_are_followed_as_far_as_the_system_does(count: int, tmp_path: Path) -> None:
    links = {f"{i}": f"{i + 1}" for i in range(1, count)} | {f"{count}": "../ext"}
    outside = linked(tmp_path, links)
    root = os.fsencode(tmp_path / "t") + b"/"
    reached = {name for name in links if os.path.exists(root + os.fsencode(name))}
    assert set(outside) == reached
    assert len(reached) == 40


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "t", "a")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    if kind == "pipe":
        os.mkfifo("t/odd")
    else:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("t/odd")
    with pytest.raises(InputError, match="odd is a pipe, a socket or a device"):
        list(tree.entries(root))
    os.unlink("t/odd")
    os.mkfifo("t/late")  # put there after the walk
    with pytest.raises(InputError, match="late changed while it was read"):
        tree._content(root + b"late")


@pytest.mark.parametrize("change", ["grow", "shrink", "same size", "same size and time"])
def test_a_file_that_changes_while_it_is_hashed_is_noticed(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "t", "a")
    path = tmp_path / "t" / "a"
    before, read = path.stat(), os.read

    def meanwhile(descriptor: int, size: int) -> bytes:
        content = read(descriptor, size)
        if content:
            path.write_bytes({"grow": b"x" * 1000, "shrink": b""}.get(change, b"y" * before.st_size))
            if "time" in change:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return content

    monkeypatch.setattr(os, "read", meanwhile)
    with pytest.raises(InputError, match="a changed while it was read"):
        list(tree.entries(root))


def test_a_file_that_holds_more_than_its_size_says_is_not_hashed_in_part() -> None:
    """/proc's are regular files of 0 bytes that hold some: their first byte is not what they hold."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("a file of 0 bytes that holds some: only on Linux")
    with pytest.raises(InputError, match="status changed while it was read"):
        tree._content(b"/proc/self/status")


def test_a_link_put_in_a_file_s_place_after_the_walk_is_not_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "t", "a")
    os.symlink("/etc/hostname", root + b"b")
    with pytest.raises(InputError, match="b cannot be read"):
        tree._content(root + b"b")


def test_names_that_are_one_file_elsewhere_are_told(tmp_path: Path) -> None:
    root = write(tmp_path / "t", "a.png", "A.png", "e\u0301", "\u00e9", "x/a.png", "ß", "SS", "ss", "X/b", "b")
    assert set(tree.survey(root).alike) == {"a.png", "\u00e9", "ss", "ß", "x/"}


def test_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not there"):
        tree.root_of(tmp_path / "none")
    with pytest.raises(InputError, match="not a folder"):
        tree.root_of(tmp_path / "file")
