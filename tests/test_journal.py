"""What a kill leaves behind, byte by byte."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poisonfrogs import journal
from poisonfrogs.types import InputError

SIZES = {0: 2, 1: 3, 2: 1}
GROUPS = [
    [{"group": group, "trial": i, "id": f"vál/{i}\udcff\n", "p": [0.1, 1e-7]} for i in range(size)]
    for group, size in SIZES.items()
]


def lines(group: int) -> bytes:
    return b"".join(map(journal.encode, GROUPS[group]))


WHOLE = [lines(group) for group in SIZES]
ALL = b"".join(WHOLE)


def test_literal_bytes(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.append(path, [{"b": 1, "a": [True, None, 0.5]}])
    journal.append(path, [{"id": "a\udcff\u00e9\n"}])
    assert path.read_bytes() == b'{"b": 1, "a": [true, null, 0.5]}\n{"id": "a\\udcff\\u00e9\\n"}\n'


@pytest.mark.parametrize("cut", range(len(ALL) + 1))
def test_a_journal_cut_at_any_byte_keeps_its_whole_groups(cut, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(ALL[:cut])
    ends = [sum(map(len, WHOLE[: n + 1])) for n in range(3)]
    kept = [group for group in SIZES if ends[group] <= cut]
    assert journal.recover(path, SIZES) == set(kept)
    assert path.read_bytes() == b"".join(WHOLE[group] for group in kept)
    for group in SIZES:
        if group not in kept:
            journal.append(path, GROUPS[group])
    assert path.read_bytes() == ALL
    assert journal.recover(path, SIZES) == set(SIZES)
    assert path.read_bytes() == ALL


@pytest.mark.parametrize("cut", range(len(WHOLE[0]) + 1))
def test_rows_leave_out_a_torn_last_line(cut, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE[0][:cut])
    first = len(journal.encode(GROUPS[0][0]))
    count = (cut >= first) + (cut >= len(WHOLE[0]))
    assert journal.rows(path) == GROUPS[0][:count]


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 40, b"\0" * 40 + b"\n", b"\xff\xfe\n", b"{\n", b"[" * 9999 + b"\n", b"[1]\n", b"3\n", b"\n", b"{}\n"],
)
def test_what_a_crashed_disk_may_leave_is_cut_off(tail, tmp_path):
    """Blocks that were never written come back as zeros, or as anything."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE[0] + tail)
    assert journal.recover(path, SIZES) == {0}
    assert path.read_bytes() == WHOLE[0]


def test_groups_may_come_in_any_order(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(WHOLE[2] + WHOLE[0] + WHOLE[1][:-1])
    assert journal.recover(path, SIZES) == {0, 2}
    assert path.read_bytes() == WHOLE[2] + WHOLE[0]


def test_no_journal_is_an_empty_one(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert journal.recover(path, SIZES) == set()
    assert journal.rows(path) == []
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(value, tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.append(path, GROUPS[0])
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(path, [{"group": 1}, {"group": 1, "p": value}])
    assert path.read_bytes() == WHOLE[0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.write_json(tmp_path / "summary.json", {"p": value})
    assert os.listdir(tmp_path) == ["journal.jsonl"]


@given(
    name=st.binary(max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name), text=st.text(max_size=20)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_file_names_survive_a_round_trip_byte_for_byte(name, text, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal.append(path, [{"id": os.fsdecode(name), text: text}])
    assert path.read_bytes().isascii()
    (row,) = journal.rows(path)
    assert os.fsencode(row["id"]) == name
    assert row[text] == text or text == "id"


def test_json_files_are_there_whole_or_not_at_all(tmp_path):
    """Killed between any two of the calls that make the file, the old one stands."""
    path = tmp_path / "plan.json"
    journal.write_json(path, {"old": 1})
    before = path.read_bytes()
    for call in ("fsync", "replace"):
        script = (
            "import os, pathlib, signal\n"
            "from poisonfrogs import journal\n"
            "def dead(*args): os.kill(os.getpid(), signal.SIGKILL)\n"
            f"{'os.fsync' if call == 'fsync' else 'pathlib.Path.replace'} = dead\n"
            f"journal.write_json(pathlib.Path({str(path)!r}), {{'new': list(range(99999))}})\n"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        assert path.read_bytes() == before
    journal.write_json(path, {"new": 2})  # what the kills left does not stand in the way
    assert json.loads(path.read_bytes()) == {"new": 2}
    assert path.read_bytes() == b'{\n "new": 2\n}\n'
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_link_at_the_partial_file_is_not_written_through(tmp_path):
    (tmp_path / "victim.txt").write_text("precious")
    (tmp_path / "report.html.partial").symlink_to("victim.txt")
    journal.write_bytes(tmp_path / "report.html", b"page")
    assert (tmp_path / "report.html").read_bytes() == b"page"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "victim.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "write", [lambda path: journal.append(path, GROUPS[0]), lambda path: journal.recover(path, {})]
)
def test_a_link_at_the_journal_is_not_written_through(write, tmp_path):
    (tmp_path / "another.jsonl").write_bytes(ALL)
    (tmp_path / "journal.jsonl").symlink_to("another.jsonl")
    with pytest.raises(OSError, match=r"journal\.jsonl"):
        write(tmp_path / "journal.jsonl")
    assert (tmp_path / "another.jsonl").read_bytes() == ALL


@pytest.mark.parametrize("read", [journal.rows, journal.read, lambda path: journal.recover(path, {})])
def test_a_pipe_is_refused_and_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "journal.jsonl")
    with pytest.raises(InputError, match=r"journal.jsonl is no regular file; was the run folder changed\?"):
        read(tmp_path / "journal.jsonl")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.write_bytes(tmp_path / "poison.png", b"x")
    assert os.listdir(tmp_path) == []


def _hold(folder: Path, held) -> None:
    with journal.one_writer(folder):
        held.set()
        time.sleep(600)  # until it is killed


def test_one_writer(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    other = spawn.Process(target=_hold, args=(tmp_path, held))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(InputError, match="is being written by another run"), journal.one_writer(tmp_path):
            raise AssertionError("two writers")
        other.kill()  # the dead hold nothing
        other.join(60)
        with journal.one_writer(tmp_path):
            pass
    finally:
        other.kill()
        other.join(60)
        other.close()
