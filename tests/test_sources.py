"""The CSV that says where files came from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poisonfrogs import sources
from poisonfrogs.types import InputError


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    for name in ("dog/1.png", "dog/2.png", "cat/x/3.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "data" / "link").symlink_to("/etc")
    return bytes(tmp_path / "data") + b"/"


def read(root: bytes, text: str | bytes) -> sources.Sources:
    file = Path(root.decode()).parent / "sources.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return sources.read(file, root)


def test_the_most_specific_row_counts(root: bytes) -> None:
    found = read(
        root,
        "path,source,collected_at,licence,collector\n.,everywhere,,,\ndog/,https://dogs.example,2024-05-31,CC0,me\n"
        'dog/2.png,"a, b",2024-05-31T12:00:00Z,,\ncat/x,cats,,,you\n',
    )
    dog = {"source": "https://dogs.example", "collected_at": "2024-05-31", "licence": "CC0", "collector": "me"}
    assert found.of(b"dog/1.png") == dog
    assert found.of(b"dog/2.png") == {"source": "a, b", "collected_at": "2024-05-31T12:00:00Z"}
    assert found.of(b"cat/x/3.png") == {"source": "cats", "collector": "you"}
    assert found.of(b"other") == {"source": "everywhere"}


def test_a_byte_order_mark_windows_line_ends_and_fewer_columns(root: bytes) -> None:
    found = read(root, b"\xef\xbb\xbfsource,path\r\nhere,dog\r\n")
    assert found.of(b"dog/1.png") == {"source": "here"}
    assert found.of(b"cat/x/3.png") == {}


def test_a_path_may_begin_with_a_dot_and_end_with_a_slash(root: bytes) -> None:
    for dog in ("dog", "./dog", "dog/", "./dog//"):
        assert read(root, f"path,source\n{dog},x\n").of(b"dog/1.png") == {"source": "x"}
    for everything in (".", "./"):
        assert read(root, f"path,source\n{everything},x\n").of(b"new") == {"source": "x"}


def test_a_path_that_is_not_utf8(root: bytes) -> None:
    (Path(root.decode()) / "dog").joinpath(b"\xff.png".decode("utf-8", "surrogateescape")).touch()
    assert read(root, b"path,source\ndog/\xff.png,x\n").of(b"dog/\xff.png") == {"source": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns none"),
        ("path,origin\n", "has the columns path, origin"),
        ("source\nx\n", "has the columns source"),
        ("path,source,source\n", "has the columns path, source, source"),
        ("path,source\ndog,x,y\n", "line 2 has not 2 cells"),
        ("path,source\ndog\n", "line 2 has not 2 cells"),
        ("path,source\ndog,x\ndog/,y\n", "line 3: 'dog' has a row already"),
        ("path,source\ndgo,x\n", "line 2: 'dgo' is not in {data}; correct the path, or remove the line"),
        ("path,source\n../data/dog,x\n", "no path inside the data"),
        ("path,source\n/etc,x\n", "no path inside the data"),
        ("path,source\ndog//1.png,x\n", "no path inside the data"),
        ("path,source\ndog/.,x\n", "no path inside the data"),
        ("path,source\n././dog,x\n", "no path inside the data"),
        ("path,source\ncat/./x,x\n", "no path inside the data"),
        ("path,source\n,x\n", "no path inside the data"),
        ("path,source\nlink/passwd,x\n", "is not in"),
        ("path,collected_at\ndog,yesterday\n", "'yesterday' is no date; expected such as 2024-05-31"),
        ("path,collected_at\ndog,2024-02-30\n", "'2024-02-30' is no date"),
        ("path,collected_at\ndog,31.5.2024\n", "is no date"),
        (b"path,source\ndog,\xe9\n", "source is not UTF-8"),
        ('path,source\ndog,"x\n', "is not a CSV"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(root: bytes, text: str | bytes, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        read(root, text)
    assert said.format(data=root.decode().removesuffix("/")) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_is_no_file_is_not_read(kind: str, root: bytes, tmp_path: Path) -> None:
    """Some devices and pipes never end."""
    path = {"device": Path("/dev/null"), "folder": tmp_path, "pipe": tmp_path / "pipe"}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=f"{path} is not a file; expected a CSV"):
        sources.read(path, root)


def test_no_file(root: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        sources.read(tmp_path / "none.csv", root)
