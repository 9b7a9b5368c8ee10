"""A manifest and its signature, replaced as one: killed at any step, the old pair or the new one is there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from securesystemslib.signer import SSlibKey

from poisonfrogs import manifest, pair, provenance, signing
from poisonfrogs.cli import main
from poisonfrogs.types import InputError
from runs import on_disk
from signed import Signed, make

KILLED = """
import os, signal, sys
from pathlib import Path
from poisonfrogs import provenance

kill_at, data, key = int(sys.argv[1]), *map(Path, sys.argv[2:])
steps = 0

def step(event, arguments):
    global steps
    names = [str(one) for one in arguments if isinstance(one, (str, bytes, os.PathLike))]
    if event in ("open", "os.rename") and any("manifest" in name for name in names):
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

fsync, write = os.fsync, os.write
def counted(descriptor):
    step("open", ["manifest"])
    fsync(descriptor)
    step("open", ["manifest"])
os.fsync = counted
sys.addaudithook(step)
provenance.sign(data, key)
print(steps)
"""


@pytest.fixture
def one(tmp_path: Path) -> Signed:
    return make(tmp_path)


def says(one: Signed) -> set[str]:
    """The paths that the pair names: what is signed is one of two states, never a mixture."""
    with pair.reading(one.manifest, one.public) as (_, file):
        return {line.decode().split('"')[3] for line in list(iter(lambda: file.readline(1 << 16), b""))[1:]}


def attempt(one: Signed, kill_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(kill_at), str(one.data), str(one.key)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_killed_at_every_step_it_leaves_one_whole_pair(one: Signed) -> None:
    old = says(one)
    seen, step = [], 1
    while True:
        new = one.data / "dog" / f"new{step}.png"
        new.write_text("new")
        run = attempt(one, step)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        after = says(one)
        assert after in (old, old | {f"dog/{new.name}"})
        seen.append(after != old)
        if after == old:
            new.unlink()
        old = after
        step += 1
    assert {True, False} <= set(seen), "kills before and after the step that counts"
    assert len(seen) >= 8
    assert says(one) == old | {f"dog/{new.name}"}
    assert not list(one.data.parent.glob("*.new"))


def test_killed_before_the_manifest_moved_it_is_found_and_then_kept(one: Signed) -> None:
    old = one.manifest.read_bytes()
    (one.data / "new").write_text("new")
    provenance.sign(one.data, one.key)
    fresh = one.manifest.rename(one.manifest.with_name(one.manifest.name + ".new"))
    one.manifest.write_bytes(old)
    assert "new" in says(one)
    (one.data / "pipe").unlink(missing_ok=True)
    os.mkfifo(one.data / "pipe")
    with pytest.raises(InputError, match="pipe"):
        provenance.sign(one.data, one.key)
    assert "new" in says(one)
    (one.data / "pipe").unlink()
    one.data.joinpath("newer").write_text("x")
    with pair.writing(one.manifest):  # the next one begins, and is given up
        assert says(one)
    assert not fresh.exists()
    assert {"new"} == says(one) - {f"{label}/{i}.png" for label in ("cat", "dog") for i in range(3)}


def test_killed_before_it_ever_signed_there_is_nothing(tmp_path: Path) -> None:
    one = make(tmp_path)
    one.manifest.rename(one.manifest.with_name(one.manifest.name + ".new"))
    one.signature.unlink()
    with pytest.raises(InputError, match="sig is not there"):
        says(one)
    provenance.sign(one.data, one.key)
    assert says(one)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("step", ["manifest", "signature", "rename"])
def test_a_full_disk_is_told_with_its_place_and_leaves_the_old_pair(
    step: str, again: bool, one: Signed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not again:
        one.manifest.unlink()
        one.signature.unlink()
    (one.data / "new").write_text("new")
    before = on_disk(one.data.parent)
    turns, fsync = iter(["manifest", "signature"]), os.fsync
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: full() if next(turns, None) == step else fsync(file))
        if step == "rename":
            patched.setattr(Path, "replace", full)
        assert main(["sign", str(one.data), "--key", str(one.key)]) == 2
    assert f"No space left on device ({one.manifest}); mend that" in capsys.readouterr().err
    assert on_disk(one.data.parent) == before
    assert main(["sign", str(one.data), "--key", str(one.key)]) == 0
    assert "new" in says(one)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_what_the_disk_does_not_take_is_not_left(size: int, one: Signed) -> None:
    """A real limit, which the buffer meets while it is written, flushed, and once more when it is closed."""
    before = on_disk(one.data.parent)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, limits[1]))

    def written() -> None:
        with pair.writing(one.manifest) as file:
            file.write(b"x" * size)
            pair.commit(one.manifest, file, b"envelope")

    try:
        with pytest.raises(OSError, match="File too large") as error:
            written()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(one.manifest)
    assert on_disk(one.data.parent) == before


@pytest.mark.parametrize("which", ["manifest", "signature"])
def test_a_link_in_the_way_is_not_written_through(which: str, one: Signed, tmp_path: Path) -> None:
    path: Path = getattr(one, which)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    path.with_name(path.name + ".new").symlink_to(precious)
    (one.data / "new").write_text("new")
    provenance.sign(one.data, one.key)
    assert "new" in says(one)
    assert precious.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert not list(tmp_path.glob("*.new"))


def test_a_link_is_not_taken_for_a_manifest_on_its_way(one: Signed, tmp_path: Path) -> None:
    kept = one.manifest.rename(tmp_path / "kept")
    one.manifest.with_name(one.manifest.name + ".new").symlink_to(kept)
    with pair.writing(one.manifest):
        assert not one.manifest.is_symlink()
    assert kept.read_bytes().startswith(manifest.HEADER)


def test_a_pair_that_is_replaced_while_it_is_opened_is_opened_anew(
    one: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = signing.opened

    def meanwhile(content: bytes, key: SSlibKey, name: str) -> signing.Signed:
        monkeypatch.setattr(signing, "opened", opened)  # once
        (one.data / "new").write_text("new")
        provenance.sign(one.data, one.key)
        return opened(content, key, name)

    monkeypatch.setattr(signing, "opened", meanwhile)
    assert "new" in says(one)


def test_a_manifest_that_arrives_while_it_is_opened_is_found(one: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = one.manifest.rename(one.manifest.with_name(one.manifest.name + ".new"))
    opened = Path.open

    def meanwhile(path: Path, *arguments: str) -> object:
        if path == pending:
            pending.replace(one.manifest)
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", meanwhile)
    assert says(one)


def hold(path: Path, held: multiprocessing.synchronize.Event, end: multiprocessing.synchronize.Event) -> None:
    with pair.writing(path):
        held.set()
        end.wait(60)


def test_one_writes_at_a_time(one: Signed) -> None:
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(one.manifest, held, end))
    other.start()
    assert held.wait(60)
    with pytest.raises(InputError, match="is being written by another command"):
        provenance.sign(one.data, one.key)
    end.set()
    other.join()
    provenance.sign(one.data, one.key)


def test_a_manifest_that_changes_while_it_is_read_is_noticed(one: Signed) -> None:
    def read() -> None:
        with pair.reading(one.manifest, one.public) as (_, file):
            one.manifest.write_bytes(one.manifest.read_bytes().replace(b"dog/0", b"dog/7"))
            while file.readline(1 << 16):
                pass

    with pytest.raises(InputError, match="changed while it was read"):
        read()


def test_a_signature_names_its_manifest_by_digest_alone(one: Signed, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy.jsonl"
    elsewhere.write_bytes(one.manifest.read_bytes())
    pair.signature_of(elsewhere).write_bytes(one.signature.read_bytes())
    with pair.reading(elsewhere, one.public) as (signed, file):
        while file.readline(1 << 16):
            pass
    assert signed.keyid == signing.public_key(one.public).keyid
