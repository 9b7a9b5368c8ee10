"""The manifest's format, and what differs between two."""

from __future__ import annotations

import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poisonfrogs import images, manifest
from poisonfrogs.manifest import HEADER, Row, differences, encode, read
from poisonfrogs.sources import FIELDS, Sources
from poisonfrogs.tree import Entry
from poisonfrogs.types import InputError

HASH = "0123456789abcdef" * 4
PART = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
PATH = st.lists(PART, min_size=1, max_size=3).map(b"/".join)


def row(path: bytes, content: str = "a", *, label: str | None = "here", **metadata: str) -> Row:
    sha = None if content == "?" else content.encode().hex().rjust(64, "0")
    return Row(Entry(path, 3, 5, sha), label, metadata)


def kinds(old: list[Row], new: list[Row], metadata: bool = False) -> list[tuple[str, str, str | None]]:
    return [(one.kind, one.path, one.was) for one in differences(old, new, metadata=metadata)]


def test_a_line_is_these_bytes() -> None:
    entry = Entry(b'dog/caf\xc3\xa9\n"\xff%.png', 12, -3, HASH)
    line = encode(Row(entry, "dog", {"source": "https://a.example/ü", "licence": "CC0"}))
    assert (
        line
        == (
            '{"path":"dog/café\\n\\"%FF%25.png","size":12,"mtime_ns":-3,"sha256":"' + HASH + '",'
            '"label":"dog","source":"https://a.example/ü","licence":"CC0"}\n'
        ).encode()
    )
    assert encode(Row(Entry(b"l", link=b"../\xfe"), None, {})) == b'{"path":"l","link":"../%FE"}\n'


@given(
    st.dictionaries(
        PATH, st.tuples(st.integers(0, 2**63 - 1), st.integers(), st.none() | PATH), min_size=1, max_size=5
    ),
    st.text(st.characters(codec="utf-8")),
)
def test_what_is_written_is_read(paths: dict[bytes, tuple[int, int, bytes | None]], text: str) -> None:
    rows = [
        Row(Entry(path, link=link) if link else Entry(path, size, time, HASH), text or None, {"collector": text})
        for path, (size, time, link) in sorted(paths.items())
    ]
    written = HEADER + b"".join(map(encode, rows))
    assert list(read(io.BytesIO(written), "m")) == rows
    for line in written.splitlines():
        json.loads(line)  # JSON that any reader takes


GOOD = {"path": "a/b", "size": 1, "mtime_ns": 2, "sha256": HASH, "label": "a"}


def line(**change: object) -> bytes:
    what = {name: value for name, value in (GOOD | change).items() if value is not ...}
    return json.dumps(what, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


HOSTILE = {
    "absolute": line(path="/etc/passwd"),
    "above": line(path="../secret"),
    "above, later": line(path="a/../../secret"),
    "above, percent": line(path="%2e%2e/secret"),
    "above, as bytes": line(path="..%2Fsecret"),
    "dot": line(path="./a"),
    "empty part": line(path="a//b"),
    "nothing": line(path=""),
    "folder": line(path="a/"),
    "NUL": line(path="a\0b"),
    "NUL, percent": line(path="a%00b"),
    "lone surrogate": line(path="a\ud800"),
    "no path": line(path=...),
    "path of the wrong kind": line(path=["a"]),
    "size of the wrong kind": line(size="1"),
    "size is true": line(size=True),
    "size is a fraction": line(size=1.0),
    "size below nothing": line(size=-1),
    "size beyond everything": line(size=10**30),
    "size of 5,000 digits": line().replace(b'"size":1', b'"size":' + b"9" * 5000),
    "infinite": line(size=float("inf")),
    "hash too short": line(sha256=HASH[:-1]),
    "hash in capitals": line(sha256=HASH.upper()),
    "hash of the wrong kind": line(sha256=7),
    "no hash": line(sha256=...),
    "label of the wrong kind": line(label=7),
    "label null": line(label=None),
    "a field twice": line().replace(b'"size":1', b'"size":1,"size":1'),
    "a field too many": line(mode=420),
    "both file and link": line(link="x"),
    "a space": line().replace(b",", b", ", 1),
    "no end": line()[:-1],
    "not JSON": b"{\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "null": b"null\n",
    "deep": b"[" * 60_000 + b"\n",
    "endless": line(path="a" * 70_000),
    "not UTF-8": b'{"path":"\xff"}\n',
    "empty": b"\n",
    "twice": line() + line(),
    "out of order": line() + line(path="a"),
    "header again": line() + HEADER,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_refused_in_one_line(name: str) -> None:
    assert list(read(io.BytesIO(HEADER + line()), "m"))
    with pytest.raises(InputError) as refusal:
        list(read(io.BytesIO(HEADER + HOSTILE[name]), "m"))
    assert "m, line " in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_what_is_likely_to_come_next_changes_nothing_that_is_read_or_refused() -> None:
    rows = [row(b"a", source="s"), row(b"b"), Row(Entry(b"c", link=b"../x"), "here", {})]
    written = HEADER + b"".join(map(encode, rows))
    for likely in (None, *(one.entry for one in rows), rows[0].entry._replace(mtime_ns=6)):
        assert list(read(io.BytesIO(written), "m", likely=lambda entry=likely: entry)) == rows
    for content in HOSTILE.values():
        with pytest.raises(InputError, match="m, line "):
            list(read(io.BytesIO(HEADER + content), "m", likely=lambda: Entry(b"a/b", 1, 2, HASH)))


def test_a_line_is_written_only_if_it_can_be_read() -> None:
    shortest = len(encode(row(b"a/\n", source="")))
    longest = row(b"a/\n", source="x" * ((1 << 16) - shortest))
    assert list(read(io.BytesIO(HEADER + encode(longest)), "m")) == [longest]
    with pytest.raises(InputError, match="a/\n takes 65,537 bytes of the manifest, more than 65,536; shorten"):
        encode(row(b"a/\n", source="x" * ((1 << 16) - shortest + 1)))


@pytest.mark.parametrize("content", [b"", b"\n", HEADER[:-1], HEADER.replace(b"1", b"2"), b"{}\n", line()])
def test_another_header_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="not a manifest of version 1"):
        list(read(io.BytesIO(content + line()), "m"))


def test_no_entries_are_never_enough() -> None:
    with pytest.raises(InputError, match="names no files"):
        list(read(io.BytesIO(HEADER), "m"))


def test_labels_are_class_folders() -> None:
    assert ("train", *images.TEST_NAMES) == manifest.SPLITS
    expected = {b"x.png": None, b"val/x.png": None, b"val/cat/x.png": "cat", b"cat/deep/x.png": "cat", b"\xff/x": "%FF"}
    assert {path: manifest.label_of(path) for path in expected} == expected
    assert manifest.row_of(Entry(b"cat/x", 1, 1, HASH), Sources({b"": {"source": "s"}})).metadata == {"source": "s"}


def test_each_difference_has_its_name() -> None:
    old = [row(b"a", "a"), row(b"b", "b"), row(b"c", "c"), row(b"d", "d", label="dog"), row(b"e", "e")]
    new = [row(b"a", "a"), row(b"b", "x"), row(b"c2", "c"), row(b"f", "f"), row(b"z", "d", label="cat")]
    assert kinds(old, new) == [
        ("changed", "b", "other content"),
        ("renamed", "c2", "c"),
        ("added", "f", None),
        ("label moved", "z", "d"),
        ("missing", "e", None),
    ]
    assert kinds(old, old) == []


def test_of_several_copies_each_is_paired_once_and_with_its_label_first() -> None:
    old = [row(b"a", "x", label="cat"), row(b"b", "x", label="dog")]
    new = [row(b"c", "x", label="dog"), row(b"d", "x", label="dog"), row(b"e", "x", label="dog")]
    assert kinds(old, new) == [("renamed", "c", "b"), ("label moved", "d", "a"), ("added", "e", None)]


def test_which_of_several_copies_is_meant_is_as_defined() -> None:
    """The definition, a copy at a time: the first that is left of the same label, else the first that is left."""
    chance = random.Random(0)
    for _ in range(300):
        old, new = ([row(b"%s%02d" % (side, i), chance.choice("xy"), label=chance.choice("ABC")) for i in range(chance.randrange(15))] for side in (b"o", b"n"))  # fmt: skip
        left, expected = list(old), []
        for after in new:
            copies = [before for before in left if before.entry.sha256 == after.entry.sha256]
            before = next((one for one in copies if one.label == after.label), copies[0] if copies else None)
            if before is None:
                expected.append(("added", after.entry.path.decode(), None))
            else:
                left.remove(before)
                kind = "renamed" if before.label == after.label else "label moved"
                expected.append((kind, after.entry.path.decode(), before.entry.path.decode()))
        assert kinds(old, new) == expected + [("missing", before.entry.path.decode(), None) for before in left]


def test_metadata_and_sizes_and_links() -> None:
    old, new = [row(b"a", source="s", licence="l")], [row(b"a", source="t", collector="c")]
    assert kinds(old, new) == []
    said = "source 's' is now 't'; licence 'l' is now unknown; collector unknown is now 'c'"
    assert kinds(old, new, metadata=True) == [("metadata changed", "a", said)]
    assert kinds([row(b"a")], [row(b"a", label="b")], metadata=True) == [
        ("metadata changed", "a", "label 'here' is now 'b'")
    ]
    link, other = Row(Entry(b"a", link=b"x"), None, {}), Row(Entry(b"a", link=b"y"), None, {})
    assert kinds([link], [other]) == [("changed", "a", "the link points elsewhere")]
    assert kinds([link], [row(b"a")]) == [("changed", "a", "a link has become a file")]
    assert kinds([row(b"a")], [link]) == [("changed", "a", "a file has become a link")]
    assert kinds([link], [Row(Entry(b"b", link=b"x"), None, {})]) == [("renamed", "b", "a")]
    assert kinds([row(b"a")], [Row(Entry(b"a", 4, 5, "0" * 64), None, {})]) == [
        ("changed", "a", "3 bytes have become 4")
    ]


def test_without_hashes_sizes_and_times_are_compared() -> None:
    unhashed = row(b"a", "?")
    assert kinds([row(b"a")], [unhashed]) == []
    later = unhashed._replace(entry=unhashed.entry._replace(mtime_ns=6))
    assert kinds([row(b"a")], [later]) == [("changed", "a", "another time")]


def test_differences_are_those_of_plain_sets() -> None:
    chance = random.Random(0)
    for _ in range(200):
        sides = [
            {b"%d" % i: chance.choice("pqrs") for i in chance.sample(range(12), chance.randrange(12))} for _ in range(2)
        ]
        old, new = ([row(path, side[path]) for path in sorted(side)] for side in sides)
        found = kinds(old, new)
        both = sides[0].keys() & sides[1].keys()
        changed = {path.decode() for path in both if sides[0][path] != sides[1][path]}
        assert {path for kind, path, _ in found if kind == "changed"} == changed
        gone = {path for kind, path, _ in found if kind == "missing"} | {
            was for kind, _, was in found if kind == "renamed"
        }
        came = {path for kind, path, _ in found if kind in ("added", "renamed")}
        assert gone == {path.decode() for path in sides[0].keys() - both}
        assert came == {path.decode() for path in sides[1].keys() - both}
        for kind, path, was in found:
            if kind == "renamed":
                assert sides[0][str(was).encode()] == sides[1][path.encode()]
        left = {content for kind, path, _ in found if kind == "missing" for content in sides[0][path.encode()]}
        fresh = {content for kind, path, _ in found if kind == "added" for content in sides[1][path.encode()]}
        assert not left & fresh  # nothing is both lost and new
    assert FIELDS == ("source", "collected_at", "licence", "collector")
