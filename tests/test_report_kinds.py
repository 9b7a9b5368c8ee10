"""The pages of certify and of match: what they say is what their run holds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import toy
from pages import Page, copied, read
from poisonfrogs import findings, run_certify
from poisonfrogs.cli import main
from poisonfrogs.plan import Certify
from poisonfrogs.report import page
from poisonfrogs.types import InputError
from runs import on_disk, refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    out = tmp_path_factory.mktemp("certified") / "run"
    run_certify(Certify(data=data, model="toy:factory", out=out, cache=cache, threads=1, against="1", trusted="val"))
    return out


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three known pictures, one of them changed by 8/255, under a name that a page must not obey."""
    root = tmp_path_factory.mktemp("matched")
    for folder, shift in (("known", 0), ("new", 8)):
        (root / folder).mkdir()
        for number in range(3):
            colour = toy.CLASSES["red"] if folder == "known" or number else tuple(c + shift for c in toy.CLASSES["red"])
            name = f"{number}.png" if folder == "known" or number else "<script>alert(1)<!-- \u202e.png"
            toy.picture(colour, number + 10 * (folder == "new" and number > 0)).save(root / folder / name)
    findings.run(str(root / "new"), str(root / "known"), root / "run")
    return root / "run"


def test_the_page_of_certify_says_what_the_summary_holds(certified: Path) -> None:
    summary = json.loads((certified / "summary.json").read_text())
    shown = read(certified)
    best = summary["recommended"]
    assert f"{100 * best['certified']['1']:.1f} %" in shown.words
    assert "up to 1 picture of the 24 training pictures" in shown.words
    assert "of the answers of a head with these parameters on the 40 test pictures" in shown.words
    assert f"{100 * best['accuracy']:.2f} %" in shown.words
    for assumption in summary["assumptions"]:
        assert assumption[1:] in shown.words
    for row in summary["frontier"]:
        for share in row["certified"].values():
            assert f"{share:.4f}" in shown.words
    assert len([name for name, _ in shown.elements if name == "path"]) >= len(
        {row["family"] for row in summary["frontier"]}
    )
    assert "poisonfrogs certify DATA" in shown.words
    assert "--trusted val" in shown.words


def test_the_page_of_match_shows_each_changed_copy(matched: Path) -> None:
    found = json.loads((matched / "findings.json").read_text())
    assert found["counts"]["perturbed"] == 1
    text = page.write(matched).path.read_text()
    shown = Page(text)
    assert "1 picture of 3 is a known picture with a small change" in shown.words
    assert len(shown.all("img")) == 3
    assert "<script>alert(1)" not in text
    assert "<script>alert(1)" in shown.words
    assert "\u202e" not in text
    assert "of 0.png" in shown.words


def test_nothing_found_is_said(matched: Path, tmp_path: Path) -> None:
    run = copied(matched, tmp_path / "run")
    found = json.loads((run / "findings.json").read_text())
    found |= {"findings": [], "counts": dict.fromkeys(found["counts"], 0)}
    (run / "findings.json").write_text(json.dumps(found))
    assert "None of the 3 pictures is a slightly changed copy of one of the 3 known pictures" in read(run).words
    (run / "findings.json").write_text(json.dumps(found | {"n_readable": 2, "n_unreadable": 1}))
    assert "None of the 2 pictures that could be read is a slightly changed copy" in read(run).words
    (run / "findings.json").write_text(json.dumps(found | {"n_readable": 0}))
    assert main(["report", str(run)]) == 3


@pytest.mark.parametrize(
    ("kind", "file", "says"),
    [
        ("certified", "summary.json", "an unfinished run of certify"),
        ("certified", "curves.json", "curves.json cannot be read"),
        ("matched", "findings.json", "findings.json is not there"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused(
    kind: str, file: str, says: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(request.getfixturevalue(kind), tmp_path / "run")
    (run / file).unlink()
    assert main(["report", str(run)]) == 2
    refused(capsys, says)


def test_curves_that_no_run_writes_are_refused(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = copied(certified, tmp_path / "run") / "curves.json"
    curves.write_text("[" * 100_000)
    assert main(["report", str(curves.parent)]) == 2
    refused(capsys, "curves.json cannot be read; was the run folder changed?")
    curves.unlink()
    os.mkfifo(curves)
    assert main(["report", str(curves.parent)]) == 2
    refused(capsys, "curves.json is no regular file; was the run folder changed?")


@pytest.mark.parametrize(("kind", "file"), [("certified", "summary.json"), ("matched", "findings.json")])
def test_a_file_without_what_it_should_hold_is_refused(
    kind: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = copied(request.getfixturevalue(kind), tmp_path / "run")
    (run / file).write_text("{}")
    with pytest.raises(InputError, match=f"{file} lacks"):
        page.write(run)
    shutil.rmtree(run)


@pytest.mark.parametrize(
    ("kind", "file", "names", "lost"),
    [
        ("certified", "summary.json", ["recommended"], "parameters"),
        ("certified", "summary.json", ["frontier", 1], "certified_ci95"),
        ("matched", "findings.json", ["findings", 0], "kind"),
    ],
)
def test_what_is_listed_without_what_it_should_hold_is_refused(
    kind: str, file: str, names: list[Any], lost: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = copied(request.getfixturevalue(kind), tmp_path / "run")
    held = json.loads((run / file).read_bytes())
    inner = held
    for name in names:
        inner = inner[name]
    del inner[lost]
    (run / file).write_text(json.dumps(held))
    with pytest.raises(InputError, match=f"{file} lacks {lost}"):
        page.write(run)


@pytest.mark.parametrize("place", ["plan.json", "findings.json", "."])
def test_a_page_takes_the_place_of_a_page_only(
    place: str, matched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(matched, tmp_path / "run")
    before = on_disk(run)
    assert main(["report", str(run), "--out", str(run / place)]) == 2
    refused(capsys, "is there already, and is no page")
    assert on_disk(run) == before
    assert main(["report", str(run), "--out", str(run / "no/such/page.html")]) == 2
    refused(capsys, "lies in no folder that is there; make ")
    assert main(["report", str(run)]) == main(["report", str(run)]) == 0
