"""The report of odd runs: hostile names, nothing in them, broken off, broken; and what it refuses."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pages import Page, copied, edited, read
from poisonfrogs import journal
from poisonfrogs.audit import run_audit
from poisonfrogs.cli import main
from poisonfrogs.plan import Audit
from poisonfrogs.report import page
from poisonfrogs.text import interval, printable
from runs import refused

pytestmark = pytest.mark.usefixtures("one_thread")

NASTY = {
    "script": '<script>alert("x")</script>',
    "quotes": "\"'`&amp;<b>",
    "newlines": "a\nb\r\nc\x00\x1b[2J",
    "right to left": "abc\u202etxt.exe\u200f\u2066",
    "300 characters": "n" * 300,
    "a lone surrogate": "pic\udcff",
}


def test_only_another_network_is_called_independent(run: Path, tmp_path: Path) -> None:
    def other(held: dict[str, Any]) -> None:
        held["auditor"]["weights"] = "0" * 64

    asked = json.loads((run / "plan.json").read_text())
    assert asked["auditor"]["weights"] == asked["model"]["weights"]
    said = read(run).words
    assert "The attacked network itself, toy:factory" in said
    assert "independent network" not in said
    assert (
        "An independent network, toy:factory"
        in Page(page.write(edited(run, tmp_path / "run", plan=other)).path.read_text()).words
    )


# --- names


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_names_stay_text(name: str, run: Path, tmp_path: Path) -> None:
    def rows(held: list[dict[str, Any]]) -> list[dict[str, Any]]:
        classes = {"blue": name, "red": "red"}
        return [
            row
            | {key: classes[row[key]] for key in ("base_class", "target_class")}
            | {"target_id": f"val/{name}", "base_ids": [f"train/{name}"], "failure": name, "failed": True}
            for row in held
        ]

    def renamed(held: dict[str, Any]) -> None:
        held["data"]["classes"] = [name, "red"]
        held["auditor"]["name"] = held["model"]["name"] = held["audit"]["victim"] = name

    mine = edited(run, tmp_path / "run", rows, renamed)
    html = page.write(mine).path.read_text()
    read_back, before = Page(html), read(run)
    assert len(read_back.all("script")) == len(before.all("script")) == 1
    assert not read_back.open
    tags = {tag for tag, _ in before.elements}
    assert {tag for tag, _ in read_back.elements} <= tags

    assert "".join(printable(name).split()) in "".join(read_back.words.split())
    assert all(char.isprintable() or char == "\n" for char in html)


def test_files_outside_the_run_are_not_read(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9), (1, 2, 3)).save(secret)
    mine = edited(run, tmp_path / "run", lambda rows: [row | {"poison_files": ["../secret.png"], "target_file": str(secret)} for row in rows])  # fmt: skip
    html = page.write(mine).path.read_text()
    assert base64.b64encode(secret.read_bytes()).decode() not in html
    assert "not in the run folder" in html


# --- runs of all kinds


def finished(run: Path, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", str(run)]) == code
    assert capsys.readouterr().out.startswith("The report is ")
    return Page((run / "report.html").read_text()).words


def test_a_run_without_a_trial(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = edited(run, tmp_path / "run", lambda rows: [])
    (nothing / "journal.jsonl").unlink()
    said = finished(nothing, 3, capsys)
    assert "0 of 0 targets fell" in said
    assert "Interrupted. 0 of 12 trials are in the journal" in said
    assert "Nothing has been measured: no trial was run to its end." in said
    none_planned = edited(run, tmp_path / "none", lambda rows: [], lambda held: held.update(trials=[]))
    assert "no trial was run" in finished(none_planned, 3, capsys)


def test_a_run_interrupted_in_the_middle(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = edited(run, tmp_path / "run", lambda rows: rows[:5])
    with (half / "journal.jsonl").open("ab") as file:
        file.write(b'{"trial_id": 5, "tor')
    said = finished(half, 3, capsys)
    assert "Interrupted. 5 of 12 trials are in the journal, and all figures on this page are of those." in said
    fell = sum(row["success"] for row in journal.rows(half / "journal.jsonl"))
    assert f"{fell} of 5 targets fell" in said
    assert "They are made when the run is finished." in said
    single = edited(run, tmp_path / "one", lambda rows: rows[:1])
    assert "Interrupted. 1 of 12 trials is in the journal, and all figures on this page are of it." in finished(single, 3, capsys)  # fmt: skip


def test_a_run_whose_trials_all_failed(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    run_audit(replace(audit, model="toy:Gradientless"))
    said = finished(audit.out, 3, capsys)
    assert "Nothing has been measured: every trial failed before it could say anything." in said
    assert "failed_trials 6 of 6 trials failed" in said
    assert "could not be crafted (6)" in said
    assert "the run holds no evasion example" in said


def test_a_run_on_one_target(audit: Audit, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = f"./{data.name}/val/red/00.png"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(data.parent)
        run_audit(replace(audit, target=(named,), eps=0.0))
    said = finished(audit.out, 0, capsys)
    assert (
        "Putting one correctly labelled picture into the training data was not enough here: "
        "the only target did not become what the attacker wanted" in said
    )
    assert "--target val/red/00.png" in said
    assert f"{data.name}/val" not in said


def test_a_run_on_one_s_own_training_code(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    run_audit(replace(audit, victim="toy:victim", head="paper"))
    said = finished(audit.out, 0, capsys)
    assert "Not drawn: the victim was your own training code (toy:victim)" in said
    assert "Not drawn: it needs a gradient, and the victim was your own training code." in said
    assert "How far the boundary turned" not in said
    assert "Nobody was asked." in said


def test_a_run_with_a_certified_head_beside_the_usual_one(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    beside = run_audit(replace(audit, head="certified"))["certified"]
    assert beside
    said = finished(audit.out, 0, capsys)
    assert f"({beside['family']}): fell {beside['n_success']} of {beside['n_eligible']}" in said
    assert interval(beside["ci95"]) in said
    assert "the last layer trained from scratch (paper)" in said


def test_a_run_of_several_watermarked_poisons(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    run_audit(replace(audit, poisons=3, watermark=0.3, targets=1, store="jpeg:90", eps=None))
    said = finished(audit.out, 0, capsys)
    assert "3 correctly labelled pictures" in said
    assert "Each target has 3 poisons; the first is shown." in said
    assert "Poisons were stored as JPEG:90" in said
    assert "the paper's penalty on the distance" in said
    assert "with the watermark alone, not crafted: fell" in said
    assert "1 of 1 target fell" in said or "0 of 1 target fell" in said
    row = journal.rows(audit.out / "journal.jsonl")[0]
    assert base64.b64encode((audit.out / row["poison_files"][0]).read_bytes()).decode() in (audit.out / "report.html").read_text()  # fmt: skip


@pytest.mark.parametrize("missing", ["pictures", "poisons", "features"])
def test_what_was_deleted_is_said_to_be_missing(run: Path, tmp_path: Path, missing: str) -> None:
    mine = copied(run, tmp_path / "run")
    for file in (mine / missing).iterdir():
        file.unlink()
    said = read(mine).words
    assert ("not in the run folder" in said) == (missing != "features")
    assert ("has no features/" in said) == (missing == "features")


# --- what it refuses


def test_another_schema_version_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = edited(run, tmp_path / "run", plan=lambda held: held.update(schema_version=99))
    assert main(["report", str(mine)]) == 2
    refused(capsys, "schema version 99", "reads 1")
    assert not (mine / "report.html").exists()


def _not_json(run: Path) -> None:
    (run / "plan.json").write_text("{")


def _other_kind(run: Path) -> None:
    (run / "plan.json").write_text('{"schema_version": 1, "kind": "sculpture"}')


def _no_plan(run: Path) -> None:
    (run / "plan.json").unlink()


def _no_classes(run: Path) -> None:
    (run / "plan.json").write_text('{"schema_version": 1, "kind": "audit", "trials": []}')


def _older_rows(run: Path) -> None:
    (run / "journal.jsonl").write_text('{"trial_id": 0, "group": 0}\n')


def _nested(run: Path) -> None:
    (run / "plan.json").write_text('{"data":' + "[" * 100_000)


def _no_numbers(run: Path) -> None:
    held = json.loads((run / "plan.json").read_bytes())
    (run / "plan.json").write_text(json.dumps(held | {"trials": [None]}))


def _broken_features(run: Path) -> None:
    (run / "features/clean.safetensors").write_bytes(b"nonsense")


def _pipe(name: str) -> Callable[[Path], None]:
    def broken(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return broken


def _row(**changed: object) -> Callable[[Path], None]:
    def broken(run: Path) -> None:
        rows = journal.rows(run / "journal.jsonl")
        (run / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [rows[0] | changed, *rows[1:]]))

    return broken


def _no_count(run: Path) -> None:
    held = json.loads((run / "summary.json").read_bytes())
    (run / "summary.json").write_text(json.dumps(held | {"n_failed_trials": {}}))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_pipe("journal.jsonl"), "journal.jsonl is no regular file"),
        (_pipe("summary.json"), "summary.json is no regular file"),
        (_row(linf=[1e308]), "is not as a run of this version left it (OverflowError"),
        (_row(trial_id=float("inf")), "is not as a run of this version left it (OverflowError"),
        (_no_count, "is not as a run of this version left it (TypeError"),
        (_not_json, "is no JSON object"),
        (_other_kind, "is of kind 'sculpture'; this version reports audit"),
        (_no_plan, "holds no run (plan.json is not there)"),
        (_no_classes, "plan.json lacks audit"),
        (_older_rows, "has a line that this version of poisonfrogs cannot read"),
        (_nested, "is no JSON object"),
        (_no_numbers, "is not as a run of this version left it"),
        (_broken_features, "clean.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(
    broken: Callable[[Path], None], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied(run, tmp_path / "run")
    broken(mine)
    assert main(["report", str(mine)]) == 2
    refused(capsys, said)
    assert not (mine / "report.html").exists()


def test_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    refused(capsys, "is no run folder")
