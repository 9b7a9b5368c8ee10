"""`keygen`, `sign` and `verify` as they are used, and as they are misused."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poisonfrogs import manifest, provenance, signing
from poisonfrogs.audit import run_audit
from poisonfrogs.cli import main
from poisonfrogs.plan import Audit
from poisonfrogs.types import InputError
from runs import on_disk, refused
from signed import Signed, make, told, verified

FIXTURE = Path(__file__).parent / "fixtures" / "signed"


@pytest.fixture
def one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Signed:
    made = make(tmp_path)
    capsys.readouterr()
    return made


def verify(one: Signed, *more: str) -> int:
    return main(["verify", str(one.data), "--key", str(one.public), *more])


def test_from_keys_to_a_clean_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    (data / "dog").mkdir(parents=True)
    (data / "dog" / "1.png").write_bytes(b"dog")
    before = on_disk(data)
    assert main(["keygen", "me"]) == 0
    assert "me signs: keep it to yourself; me.pub verifies" in capsys.readouterr().out
    assert main(["sign", "data/", "--key", "me"]) == 0
    assert "signed 1 files and 0 links, 3 bytes" in capsys.readouterr().out
    assert main(["verify", "data", "--key", "me.pub"]) == 0
    assert "1 files and links now: all as they were signed" in capsys.readouterr().out
    assert on_disk(data) == before
    monkeypatch.chdir(data)
    assert main(["verify", ".", "--key", "../me.pub"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "data", "me", "me.pub", "data.manifest.jsonl", "data.manifest.sig", ".data.manifest.jsonl.lock"
    }  # fmt: skip


def test_what_was_signed_by_today_s_version_verifies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = [
        "verify",
        str(FIXTURE / "data"),
        "--key",
        str(FIXTURE / "key.pub"),
        "--sources",
        str(FIXTURE / "sources.csv"),
    ]
    assert main(given) == 0
    assert "5 files and links now: all as they were signed" in capsys.readouterr().out


def test_every_difference_is_named(one: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    (one.data / "cat" / "0.png").write_bytes(b"other")
    (one.data / "cat" / "1.png").unlink()
    (one.data / "cat" / "2.png").rename(one.data / "cat" / "two.png")
    (one.data / "dog" / "0.png").rename(one.data / "cat" / "dog.png")
    (one.data / "dog" / "new.png").write_bytes(b"new")
    code, found = verified(one, capsys)
    assert code == 1
    assert told(found) == [
        ("changed", "cat/0.png", "other content"),
        ("label moved", "cat/dog.png", "dog/0.png"),
        ("renamed", "cat/two.png", "cat/2.png"),
        ("added", "dog/new.png", None),
        ("missing", "cat/1.png", None),
    ]
    assert found["counts"] == {
        "changed": 1, "missing": 1, "added": 1, "renamed": 1, "label moved": 1, "metadata changed": 0
    }  # fmt: skip
    assert found["schema_version"] == 1
    assert found["checked"] == 6
    assert not found["fast"]
    assert verify(one) == 1
    out = capsys.readouterr().out
    assert "label moved      cat/dog.png  (was dog/0.png)\n" in out
    assert "6 files and links now: 1 changed, 1 missing, 1 added, 1 renamed, 1 label moved" in out


def test_odd_names_are_signed_verified_and_shown_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path)
    names = [
        "new\nline.png",
        "e\u0301.png",
        "\u00e9.png",
        "A.png",
        "a.png",
        os.fsdecode(b"\xff\xfe.png"),
        "\x1b[2J.png",
    ]
    for name in names:
        (one.data / "cat" / name).write_bytes(os.fsencode(name))
    (one.data / "loop").symlink_to("loop")
    (one.data / "out").symlink_to("/etc/passwd")
    (one.data / "dogs").symlink_to("dog")
    capsys.readouterr()
    assert main(["sign", str(one.data), "--key", str(one.key)]) == 0
    out = capsys.readouterr().out
    assert "cat/a.png: another name here differs in case or Unicode form alone" in out
    assert "out: leads out of the folder; what it points to is NOT signed" in out
    assert "loop: " not in out
    assert verify(one) == 0
    assert "out: leads out of the folder" in capsys.readouterr().out
    for name in names:
        (one.data / "cat" / name).unlink()
    assert verify(one) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "missing          cat/new\\nline.png" in lines
    assert "missing          cat/%FF%FE.png" in lines
    assert "missing          cat/\\x1b[2J.png" in lines
    (one.data / "out").unlink()
    (one.data / "out").symlink_to("/etc/shadow")
    assert ("changed", "out", "the link points elsewhere") in told(verified(one, capsys)[1])


def test_what_came_in_since_is_told_by_source(one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "may.jsonl"
    assert main(["sign", str(one.data), "--key", str(one.key), "--out", str(old)]) == 0
    assert verify(one, "--against", str(old)) == 0
    (one.data / "scraped").mkdir()
    for number in range(3):
        (one.data / "scraped" / f"{number}.png").write_bytes(b"%d" % number)
    (one.data / "cat" / "mine.png").write_bytes(b"mine")
    sources = tmp_path / "sources.csv"
    sources.write_text("path,source\nscraped,https://s.example\n")
    assert main(["sign", str(one.data), "--key", str(one.key), "--sources", str(sources)]) == 0
    code, found = verified(one, capsys, "--against", str(old))
    assert code == 1
    assert found["differences"] == []
    assert found["since"]["added_by_source"] == {"https://s.example": 3, "unknown": 1}
    assert [one["path"] for one in found["since"]["differences"]] == [
        "cat/mine.png", "scraped/0.png", "scraped/1.png", "scraped/2.png"
    ]  # fmt: skip
    assert verify(one, "--against", str(old)) == 1
    assert "came in from https://s.example: 3" in capsys.readouterr().out


def test_metadata_that_changed_is_named(one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources, other = tmp_path / "sources.csv", tmp_path / "other.csv"
    sources.write_text("path,source,licence\n.,a,CC0\n")
    other.write_text("path,source,licence\n.,a,CC0\ndog/1.png,a,none\n")
    assert main(["sign", str(one.data), "--key", str(one.key), "--sources", str(sources)]) == 0
    assert verify(one) == 0
    assert verify(one, "--sources", str(sources)) == 0
    code, found = verified(one, capsys, "--sources", str(other))
    assert code == 1
    assert told(found) == [("metadata changed", "dog/1.png", "licence 'CC0' is now 'none'")]


def test_fast_sees_sizes_and_times_and_says_what_it_is(one: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    path = one.data / "dog" / "1.png"
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(b"x" * len(content))
    assert verify(one, "--fast") == 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    assert verify(one, "--fast") == 0  # forged
    assert "this was no security check" in capsys.readouterr().out
    said = verified(one, capsys, "--fast")[1]
    assert (said["fast"], said["security_check"]) == (True, False)
    assert verified(one, capsys)[1]["security_check"] is True
    assert verify(one) == 1
    path.write_bytes(content + b"x")
    assert verify(one, "--fast") == 1
    os.utime(path, ns=(0, 0))
    path.write_bytes(content)
    assert verify(one) == 0, "another time alone is no difference of content"


def test_nothing_is_not_signed_and_nothing_left_is_not_clean(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    assert main(["sign", str(tmp_path / "empty"), "--key", str(one.key)]) == 2
    refused(capsys, "empty holds no files; there is nothing to sign")
    assert not (tmp_path / "empty.manifest.jsonl").exists()
    shutil.rmtree(one.data)
    one.data.mkdir()
    code, found = verified(one, capsys)
    assert (code, found["checked"], found["counts"]["missing"]) == (1, 0, 6)


Named = tuple[str, str, str | None] | str  # the one difference, or what the refusal says


def flip(one: Signed, path: Path, chance: random.Random) -> Named:
    _flip(path, chance)
    return "changed", _where(one, path), "other content"


def truncate(one: Signed, path: Path, chance: random.Random) -> Named:
    size = path.stat().st_size
    kept = chance.randrange(size)
    os.truncate(path, kept)
    return "changed", _where(one, path), f"{size} bytes have become {kept}"


def rename(one: Signed, path: Path, chance: random.Random) -> Named:
    new = path.rename(path.with_name(f"{chance.randrange(10**6)}.png"))
    return "renamed", _where(one, new), _where(one, path)


def add(one: Signed, path: Path, chance: random.Random) -> Named:
    new = path.with_name(f"{chance.randrange(10**6)}.png")
    new.write_bytes(chance.randbytes(chance.randrange(99)))
    return "added", _where(one, new), None


def delete(one: Signed, path: Path, chance: random.Random) -> Named:
    path.unlink()
    return "missing", _where(one, path), None


def move(one: Signed, path: Path, chance: random.Random) -> Named:
    other = {"cat": "dog", "dog": "cat"}[path.parent.name]
    new = path.rename(one.data / other / f"{chance.randrange(10**6)}.png")
    return "label moved", _where(one, new), _where(one, path)


def link(one: Signed, path: Path, chance: random.Random) -> Named:
    path.unlink()
    path.symlink_to(chance.choice(["/etc/hostname", "../../key", "nowhere"]))
    return "changed", _where(one, path), "a file has become a link"


def edit_signature(one: Signed, path: Path, chance: random.Random) -> Named:
    _edit(one.signature, chance)
    return r"\.sig.*; nothing below it is trusted"


def edit_manifest(one: Signed, path: Path, chance: random.Random) -> Named:
    _edit(one.manifest, chance)
    return "is not the manifest that was signed: it is truncated or altered; nothing in it is trusted"


def swap_key(one: Signed, path: Path, chance: random.Random) -> Named:
    """A change that is covered up: all is signed anew, by somebody else."""
    _flip(path, chance)
    other = one.data.with_name("other")
    signing.generate(other)
    provenance.sign(one.data, other)
    return "is signed with another key"


def _where(one: Signed, path: Path) -> str:
    return path.relative_to(one.data).as_posix()


def _edit(path: Path, chance: random.Random) -> None:
    if chance.randrange(2):
        _flip(path, chance)
    else:
        os.truncate(path, chance.randrange(path.stat().st_size))


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


TAMPERING: list[Callable[[Signed, Path, random.Random], Named]] = [
    *(flip, truncate, rename, add, delete, move, link, edit_signature, edit_manifest, swap_key)
]  # fmt: skip


def test_a_hundred_random_single_changes_are_caught_and_named(one: Signed, tmp_path: Path) -> None:
    chance, drawn = random.Random(0), set()
    for turn in range(100):
        copied = shutil.copytree(one.data.parent, tmp_path.with_name(f"{tmp_path.name}-{turn}"))
        copy = Signed(copied / "data", copied / "key", copied / "key.pub")
        assert provenance.verify(copy.data, copy.public).differences == ()
        how, path = chance.choice(TAMPERING), chance.choice(sorted(copy.data.glob("*/*.png")))
        drawn.add(how)
        named = how(copy, path, chance)
        if isinstance(named, str):
            with pytest.raises(InputError, match=named):
                provenance.verify(copy.data, copy.public)
        else:
            found = provenance.verify(copy.data, copy.public).differences
            assert [(each.kind, each.path, each.was) for each in found] == [named]
    assert drawn == set(TAMPERING)


@pytest.mark.parametrize("which", ["manifest", "signature"])
def test_an_absent_part_of_the_pair_is_refused(which: str, one: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    path: Path = getattr(one, which)
    away = path.rename(path.with_name("away"))
    assert verify(one) == 2
    refused(capsys, "is not there")
    away.rename(path)
    assert verify(one) == 0


def test_another_key_is_refused_and_so_is_another_s_signature(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = signing.generate(tmp_path / "other")
    assert main(["verify", str(one.data), "--key", str(other)]) == 2
    refused(capsys, "is signed with another key")
    assert main(["sign", str(one.data), "--key", str(tmp_path / "other")]) == 0  # key swap: all is signed anew
    capsys.readouterr()
    assert verify(one) == 2
    refused(capsys, "is signed with another key", "nothing below it is trusted")


def test_a_hostile_manifest_reads_nothing_outside_even_when_it_is_signed(
    one: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever holds the key may be an insider; the manifest's paths are never opened."""
    import hashlib

    lines = one.manifest.read_bytes().splitlines(keepends=True)
    for path in ("/etc/passwd", "../key", "cat/../../key", "a\\u0000b", ".", ""):
        edited = lines[0] + lines[1].replace(b"cat/0.png", path.encode()) + b"".join(lines[2:])
        one.manifest.write_bytes(edited)
        digest = hashlib.sha256(edited).hexdigest()
        one.signature.write_bytes(signing.envelope("m", digest, {}, signing.private_key(one.key)))
        assert verify(one) == 2
        refused(capsys, "line 2 is no entry of a manifest")


def test_a_link_through_a_hop_outside_is_not_what_was_signed(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ext").mkdir()
    hop = tmp_path / "ext" / "hop"
    hop.symlink_to(one.data / "dog" / "2.png")
    (one.data / "dog" / "linked.png").symlink_to("../../ext/hop")
    assert main(["sign", str(one.data), "--key", str(one.key)]) == 0
    assert "dog/linked.png: leads out of the folder; what it points to is NOT signed" in capsys.readouterr().out
    hop.unlink()
    hop.symlink_to(one.data / "cat" / "1.png")
    assert verified(one, capsys)[1]["outside"] == ["dog/linked.png"]
    with pytest.raises(InputError, match=r"links that lead out of it \(dog/linked.png\)"):
        provenance.require(one.data, one.public)


def test_a_line_that_could_not_be_read_is_not_signed(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "sources.csv"
    sources.write_text(f"path,source\ndog/1.png,{'x' * 70_000}\n")
    before = on_disk(tmp_path)
    assert main(["sign", str(one.data), "--key", str(one.key), "--sources", str(sources)]) == 2
    refused(capsys, "dog/1.png takes 70,", "bytes of the manifest, more than 65,536; shorten what the sources CSV says")
    assert on_disk(tmp_path) == before
    assert verify(one) == 0


def test_what_is_no_manifest_is_not_replaced(one: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    thesis, cut = b'{"chapter":1}\n', manifest.HEADER[:-1]
    for path, contents, said in (
        (one.manifest, (thesis, cut, b""), "data.manifest.jsonl is there already, and is no manifest;"),
        (one.signature, (thesis, b""), "data.manifest.sig is there already, and is no manifest's signature;"),
    ):
        own = path.read_bytes()
        for content in contents:
            path.write_bytes(content)
            assert main(["sign", str(one.data), "--key", str(one.key)]) == 2
            refused(capsys, said, "choose another --out")
            assert path.read_bytes() == content
        path.write_bytes(own)
    for path, begun in ((one.manifest, cut), (one.signature, one.signature.read_bytes()[:99])):
        new = path.with_name(path.name + ".new")
        for content in (b"my own notes", begun + b"my own notes" if path == one.manifest else begun[5:]):
            new.write_bytes(content)
            assert main(["sign", str(one.data), "--key", str(one.key)]) == 2
            refused(
                capsys, f"{new.name} is there already, and is no ", " on its way; choose another --out, or remove it"
            )
            assert new.read_bytes() == content
        new.write_bytes(begun)  # a kill leaves such
    assert main(["sign", str(one.data), "--key", str(one.key)]) == 0
    assert verify(one) == 0


def test_a_pipe_in_the_manifest_s_place_is_refused_and_not_waited_for(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert main(["sign", str(one.data), "--key", str(one.key), "--out", str(tmp_path / "pipe.jsonl")]) == 2
    refused(capsys, "pipe.jsonl is there already, and is no manifest")
    os.mkfifo(tmp_path / "mine.jsonl.new")
    assert main(["sign", str(one.data), "--key", str(one.key), "--out", str(tmp_path / "mine.jsonl")]) == 2
    refused(capsys, "mine.jsonl.new is there already, and is no manifest on its way")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("sign none --key key", "none is not there; expected a folder of files"),
        ("sign key --key key", "key is not a folder"),
        ("sign data --key none", "none is not a file"),
        ("sign data --key key.pub", "holds no private key"),
        ("sign data", "--key"),
        ("sign data --key key --out data/in.jsonl", "would lie inside data"),
        ("sign data --key key --out data/cat/in.jsonl", "would lie inside data"),
        ("sign data --key key --out none/m.jsonl", "none is not a folder"),
        ("sign data --key key --sources none.csv", "none.csv cannot be read"),
        ("sign / --key key", "nothing beside it"),
        ("sign / --key key --out m.jsonl", "would lie inside"),
        ("sign data --key key --out key", "key does not end in .jsonl, as a manifest does; choose another --out"),
        ("sign data --key key --out new", "new does not end in .jsonl"),
        ("sign data --key key --out key.jsonl", "key.jsonl would be written over key"),
        ("sign data --key key --sources some.csv --out ./some.jsonl", "some.sig would be written over some.csv"),
        ("sign data --key key --out a.jsonl", "a.jsonl is a folder"),
        ("sign data --key key --out folder.jsonl", "folder.sig is a folder"),
        ("keygen .", ". is a folder; give the name of a file"),
        ("verify data --key key", "holds a private key; give its public half"),
        ("verify data --key key.pub --manifest none.jsonl", "none.sig is not there"),
        ("verify data --key key.pub --against none.jsonl", "none.sig is not there"),
        ("verify none --key key.pub", "none is not there"),
        ("keygen key", "key is there already"),
        ("keygen none/key", "No such file"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    arguments: str, said: str, one: Signed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(one.data.parent)
    Path("some.csv").write_text("path,source\n")
    Path("some.sig").hardlink_to("some.csv")
    Path("key.jsonl").hardlink_to("key")
    Path("a.jsonl").mkdir()
    Path("folder.sig").mkdir()
    before = on_disk(one.data.parent)
    assert main(arguments.split()) == 2
    refused(capsys, said)
    assert on_disk(one.data.parent) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keygen", ""],
        ["sign", "", "--key", "../key"],
        ["sign", "../data", "--key", ""],
        ["sign", "../data", "--key", "../key", "--out", ""],
        ["sign", "../data", "--key", "../key", "--sources", ""],
        ["verify", "", "--key", "../key.pub"],
        ["verify", "../data", "--key", ""],
        ["verify", "../data", "--key", "../key.pub", "--manifest", ""],
        ["verify", "../data", "--key", "../key.pub", "--against", ""],
    ],
)
def test_an_empty_value_does_not_mean_the_current_folder(
    arguments: list[str], one: Signed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(one.data)
    before = on_disk(one.data.parent)
    assert main(arguments) == 2
    refused(capsys, "the value is empty; expected one (is a variable of the shell not set?)")
    assert on_disk(one.data.parent) == before


def test_beside_a_folder_is_where_the_system_finds_it(
    one: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LINK/.. is above what the link leads to, not above the link."""
    deep = tmp_path / "elsewhere" / "deep"
    (deep / "inside").mkdir(parents=True)
    shutil.copytree(one.data, deep.parent / "data")
    (tmp_path / "data").rename(tmp_path / "other")
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(deep)
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    for named, place in (
        ("link/../data", "elsewhere/data"),
        ("link/inside/..", "elsewhere/deep"),
        ("link/..", "elsewhere"),
        ("link", "link"),  # the link's own name stays
    ):
        (deep / "file").write_text(named)
        at = tmp_path / f"{place}.manifest.jsonl"
        assert main(["sign", named, "--key", "key"]) == 0
        assert at.is_file()
        assert main(["verify", named, "--key", "key.pub"]) == 0
        assert at.samefile(provenance.verify(Path(named), one.public).manifest)
    after = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} - before
    assert after == {f"{name}.manifest.{kind}" for name in ("elsewhere", "link") for kind in ("jsonl", "sig")}


def test_without_the_library_one_line_says_what_to_install(
    one: Signed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert verify(one) == 2
    refused(capsys, "pip install 'poisonfrogs[provenance]'")


def test_neither_torch_nor_numpy_is_imported(one: Signed) -> None:
    code = """
import sys
from poisonfrogs.cli import main
data, key = sys.argv[1:]
assert main(["sign", data, "--key", key]) == 0
assert main(["verify", data, "--key", key + ".pub"]) == 0
assert not {"torch", "numpy", "PIL"} & set(sys.modules), set(sys.modules) & {"torch", "numpy", "PIL"}
"""
    subprocess.run([sys.executable, "-c", code, str(one.data), str(one.key)], check=True)


def test_what_an_audit_requires_to_be_signed(audit: Audit, tmp_path: Path, data: Path) -> None:
    from dataclasses import replace

    shutil.copytree(data, tmp_path / "mine")
    public = signing.generate(tmp_path / "key")
    mine = replace(audit, data=tmp_path / "mine", require_signed=public)
    with pytest.raises(InputError, match=r"mine\.manifest\.sig is not there"):
        run_audit(mine)
    provenance.sign(mine.data, tmp_path / "key", out=tmp_path / "m.jsonl")
    mine = replace(mine, manifest=tmp_path / "m.jsonl")
    assert run_audit(mine)["n_trials"] == 6
    (mine.data / "train" / "new.txt").write_text("new")
    with pytest.raises(
        InputError, match=r"mine is not as it was signed: train/new.txt \(added\); see poisonfrogs verify"
    ):
        run_audit(mine)
    (mine.data / "train" / "new.txt").unlink()
    (mine.data / "train" / "out").symlink_to("/etc")
    provenance.sign(mine.data, tmp_path / "key", out=tmp_path / "m.jsonl")
    with pytest.raises(InputError, match=r"links that lead out of it \(train/out\)"):
        run_audit(mine)
    with pytest.raises(InputError, match="--manifest needs --require-signed"):
        run_audit(replace(mine, require_signed=None))


def test_certify_requires_it_as_audit_does(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data, "mine")
    signing.generate(Path("key"))
    required = ["certify", "mine", "--out", "run", "--require-signed", "key.pub"]
    assert main(required) == 2
    refused(capsys, "mine.manifest.sig is not there")
    provenance.sign(Path("mine"), Path("key"), out=Path("m.jsonl"))
    Path("mine/train/new.txt").write_text("new")
    assert main([*required, "--manifest", "m.jsonl"]) == 2
    refused(capsys, "mine is not as it was signed: train/new.txt (added)")
    assert not Path("run").exists()


def test_the_differences_of_a_folder_are_those_of_json(one: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    found = provenance.verify(one.data, one.public)
    assert json.loads(json.dumps(found.counts())) == dict.fromkeys(manifest.KINDS, 0)


@pytest.mark.parametrize(("document", "commands"), [("provenance", ("sign", "verify", "audit")), ("match", ("match",))])
def test_every_flag_that_the_documentation_names_is_there(
    document: str, commands: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    known: set[str] = set()
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    text = (Path(__file__).parent.parent / "docs" / f"{document}.md").read_text()
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known
