"""A full disk and Ctrl-C: one line, nothing half-written, and the same command goes on."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import toy
from poisonfrogs import audit, journal
from poisonfrogs.cli import main
from runs import on_disk, quick, refused


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as if the disk were full. (Python ignores SIGXFSZ: writing fails.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", ["plan.json", "poisons", "journal.jsonl"])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    stage: str, here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(14):  # 8 and 14 targets: two groups
        toy.picture((170, 80, 60), 500 + number).save(here / "toy" / "val" / "red" / f"more{number}.png")
    assert main(quick(cache)) == 0
    whole = on_disk(here / "run")
    (here / "run").rename(here / "undisturbed")
    smallest_poison = min(len(content or b"") for name, content in whole.items() if name.endswith(".png"))
    room = {"plan.json": 300, "poisons": smallest_poison - 1, "journal.jsonl": len(whole["journal.jsonl"] or b"") - 1}
    writing = "write_json" if stage == "plan.json" else "_run_groups"

    def cramped(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            with room_for(room[stage]):
                function(*arguments)

        return call

    with monkeypatch.context() as patched:
        module = journal if stage == "plan.json" else audit
        patched.setattr(module, writing, cramped(getattr(module, writing)))
        capsys.readouterr()
        assert main(quick(cache)) == 2
    refused(capsys, "File too large", "give the same command again")
    assert not list((here / "run").rglob("*.partial"))
    assert not (here / "run" / "summary.json").exists()
    assert ("plan.json" in on_disk(here / "run")) == (stage != "plan.json")
    assert main(quick(cache)) == 0
    now = on_disk(here / "run")
    same = [name for name in whole if name.startswith(("journal", "poisons"))]
    assert {name: now[name] for name in same} == {name: whole[name] for name in same}
    assert set(now) == set(whole)


def test_a_full_cache_stops_the_run_before_anything_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room_for(8192):
        assert main(quick(here / "cold")) == 2
    refused(capsys, "cache", "choose another --cache")
    assert not (here / "run").exists()
    assert main(quick(here / "cold")) == 0


# --- Ctrl-C


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(14):
        toy.picture((170, 80, 60), 500 + number).save(here / "toy" / "val" / "red" / f"more{number}.png")
    assert main(quick(cache)) == 0
    whole = on_disk(here / "run")
    shutil.rmtree(here / "run")
    run, calls = audit.trial.run, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return run(*arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    with monkeypatch.context() as patched:
        patched.setattr(audit.trial, "run", interrupted)
        capsys.readouterr()
        assert main(quick(cache)) == 130
    signal.signal(signal.SIGINT, before)
    refused(capsys, "stopped; give the same command again: what is kept is not done twice")
    assert 0 < len((here / "run" / "journal.jsonl").read_bytes()) < len(whole["journal.jsonl"] or b"")
    assert main(quick(cache)) == 0
    now = on_disk(here / "run")
    same = [name for name in whole if name.startswith(("journal", "poisons"))]
    assert {name: now[name] for name in same} == {name: whole[name] for name in same}
