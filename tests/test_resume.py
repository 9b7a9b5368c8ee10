"""Audits that are killed and started again end with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from poisonfrogs import journal, pipeline, trial
from poisonfrogs.attacks.collision import Collision
from poisonfrogs.audit import run_audit
from poisonfrogs.plan import Audit
from poisonfrogs.train import recipe
from poisonfrogs.types import InputError
from runs import arguments, kept, rows_of, whole

pytestmark = pytest.mark.usefixtures("one_thread")


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from poisonfrogs import exhibits, journal, trial
from poisonfrogs.audit import run_audit
from runs import whole

torch.set_num_threads(1)
where, data, out, cache = sys.argv[1], *map(Path, sys.argv[2:])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

append, write, written = journal.append, journal.write_bytes, []

def torn(path, group):
    if path.name == "journal.jsonl" and group[0]["group"] == 1:
        with path.open("ab") as file:
            lines = b"".join(map(journal.encode, group))
            file.write(lines[: int(len(lines) * float(where.partition(":")[2]))])
        die()
    append(path, group)

def after(path, content):
    write(path, content)
    written.append(path)
    if len(written) == int(where.partition(":")[2]):
        die()

if where.startswith("torn"):
    journal.append = torn
else:
    (exhibits if where.startswith("exhibit") else trial).write_bytes = after
run_audit(whole(data, cache, out))
"""


@pytest.fixture(scope="module")
def undisturbed(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_audit(whole(data, cache, out))
    return kept(out)


@pytest.mark.parametrize(
    "where", ["torn:0.03", "torn:0.5", "torn:0.999", "poison:5", "poison:38", "exhibit:1", "exhibit:36"]
)
def test_killed_in_a_row_or_among_the_pictures_it_ends_with_the_same_bytes(
    where: str, audit: Audit, undisturbed: dict[str, bytes]
) -> None:
    script = [sys.executable, "-c", KILLED, where, str(audit.data), str(audit.out), str(audit.cache)]
    dead = subprocess.run(script, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}, check=False)
    assert dead.returncode == -signal.SIGKILL
    before = (audit.out / "journal.jsonl").read_bytes() if (audit.out / "journal.jsonl").exists() else b""
    assert before != undisturbed["journal.jsonl"]
    run_audit(replace(audit, targets="all"))
    assert kept(audit.out) == undisturbed


def test_killed_from_outside_at_random_again_and_again(audit: Audit, undisturbed: dict[str, bytes]) -> None:
    chance = random.Random(0)
    for wanted in (1, 17):  # rows in the journal before the kill
        run = subprocess.Popen(
            [sys.executable, "-m", "poisonfrogs", "audit", *arguments(audit)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            stdout=subprocess.DEVNULL,
        )
        while run.poll() is None and len(rows_of(audit)) < wanted:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        run.kill()
        run.wait()
    run_audit(replace(audit, targets="all"))
    assert kept(audit.out) == undisturbed


def test_a_finished_run_computes_nothing_again(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_audit(audit)
    before = kept(audit.out)
    monkeypatch.setattr(trial, "run", None)
    assert run_audit(audit) == first
    assert kept(audit.out) == before


def test_killed_while_the_plan_is_written_it_goes_on(audit: Audit) -> None:
    audit.out.mkdir()
    (audit.out / "plan.json.partial").write_bytes(b'{"schema_ver')
    (audit.out / ".lock").touch()
    assert run_audit(audit)["n_trials"] == 6
    assert not (audit.out / "plan.json.partial").exists()


def test_killed_right_after_the_plan_was_written_it_goes_on(audit: Audit, tmp_path: Path) -> None:
    run_audit(audit)
    begun = replace(audit, out=tmp_path / "begun")
    begun.out.mkdir()
    (begun.out / "plan.json").write_bytes((audit.out / "plan.json").read_bytes())
    run_audit(begun)
    assert kept(begun.out) == kept(audit.out)


def test_torn_timings_are_cut_off_and_every_group_is_timed(audit: Audit) -> None:
    """Killed in the second group's timings: neither they nor those after them are lost."""
    mine = replace(audit, targets="all")
    run_audit(mine)
    whole = kept(mine.out)
    timings, rows = (mine.out / "timings.jsonl").read_bytes().splitlines(True), rows_of(mine)
    (mine.out / "timings.jsonl").write_bytes(timings[0] + timings[1][:20])
    (mine.out / "journal.jsonl").write_bytes(b"".join(journal.encode(row) for row in rows if row["group"] == 0))
    summary = run_audit(mine)
    assert kept(mine.out) == whole
    again = journal.rows(mine.out / "timings.jsonl")
    assert [row["group"] for row in again] == [0, 1, 2]
    seconds = sum(row["seconds"]["total"] for row in again)
    assert summary["seconds_per_trial"] == pytest.approx(seconds / 40, abs=6e-4)


def test_a_group_whose_rows_a_kill_lost_is_timed_once(audit: Audit) -> None:
    """Timings are written first: what they said of a group that is run again is no reason to doubt the run."""
    mine = replace(audit, targets="all")
    first = run_audit(mine)
    timings, rows = journal.rows(mine.out / "timings.jsonl"), rows_of(mine)
    torn = timings[1] | {"lost": ["killed by signal 9"], "versions": {"torch": "0.1"}}
    (mine.out / "timings.jsonl").write_bytes(journal.encode(timings[0]) + journal.encode(torn))
    (mine.out / "journal.jsonl").write_bytes(b"".join(journal.encode(row) for row in rows if row["group"] == 0))
    assert run_audit(mine)["checks"] == first["checks"]
    again = journal.rows(mine.out / "timings.jsonl")
    assert [row["group"] for row in again] == [0, 1, 2]
    assert again[0] == timings[0]


def test_a_summary_names_the_machines_that_did_the_work(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that only sums it up again."""
    mine, now = replace(audit, targets="all"), pipeline.versions()
    with monkeypatch.context() as there:
        there.setattr(pipeline, "hardware", lambda device: "another machine")
        there.setattr(pipeline, "versions", lambda: now | {"torch": "0.1"})
        begun = run_audit(mine)
    assert (begun["hardware"], begun["versions"]["torch"]) == ("another machine", "0.1")
    assert run_audit(mine) == begun
    rows = rows_of(mine)
    (mine.out / "journal.jsonl").write_bytes(b"".join(journal.encode(row) for row in rows if row["group"] == 0))
    gone_on = run_audit(mine)
    here = pipeline.hardware(torch.device("cpu"))
    assert (gone_on["hardware"], gone_on["versions"]) == (f"another machine; {here}", begun["versions"])


def test_seconds_that_an_older_version_took_are_not_said_to_be_this_machine_s(audit: Audit) -> None:
    run_audit(audit)
    (timing,) = journal.rows(audit.out / "timings.jsonl")
    del timing["hardware"]
    (audit.out / "timings.jsonl").write_bytes(journal.encode(timing))
    assert run_audit(audit)["hardware"] == "not recorded"


@pytest.mark.parametrize("change", [{"seed": 1}, {"eps": 9 / 255}, {"targets": 5}, {"base_choice": "random"}])
def test_a_run_of_another_plan_is_refused_and_left_as_it_was(audit: Audit, change: dict) -> None:
    run_audit(audit)
    before = kept(audit.out)
    with pytest.raises(InputError, match=f"another plan .*{next(iter(change))}"):
        run_audit(replace(audit, **change))
    assert kept(audit.out) == before


@pytest.mark.parametrize(
    ("part", "name", "was", "now"),
    [
        ("attack", "restart", 1.0, 0.25),
        ("surrogate", "confidence", 0.9, 0.95),
        ("head", "c", 2.0, 1.0),
    ],
)
def test_a_run_that_an_older_version_began_is_not_gone_on_with(audit: Audit, part, name, was, now) -> None:
    """What no option sets is of the plan as well: half a run is not to be crafted or judged in another way."""
    run_audit(audit)
    path = audit.out / "plan.json"
    held = json.loads(path.read_bytes())
    assert held["attack"] == asdict(Collision(passes=audit.passes))
    assert held["head"] == asdict(recipe(audit.head))
    path.write_text(json.dumps(held | {part: held[part] | {name: was}}))
    with pytest.raises(InputError, match=rf"another plan \({part}.{name} was {was}, is now {now}\)"):
        run_audit(audit)
