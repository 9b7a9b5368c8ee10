"""Checks, each made to fire and to be silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import toy
from poisonfrogs import checks, journal
from poisonfrogs.audit import run_audit
from poisonfrogs.plan import Audit

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD = {
    "eligible": True, "failed": False, "failure": None, "passes": 9, "linf": [8 / 255], "control_accuracy": 0.99,
    "accuracy": 0.99, "certified": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("ineligible_targets", {"eligible": False}, 3),
        ("failed_trials", {"failed": True, "failure": "NaN"}, 1),
        ("zero_gradients", {"linf": [0.0]}, 1),
        ("beyond_budget", {"linf": [9 / 255]}, 1),
        ("collapsed_accuracy", {"accuracy": 0.9}, 1),
        ("collapsed_accuracy", {"accuracy": 0.6, "control_accuracy": 0.6}, 20),
    ],
)
def test_a_check_fires_for_its_reason_only(name: str, change: dict, count: int, audit: Audit) -> None:
    good = [dict(GOOD) for _ in range(20)]
    assert checks.of_rows(audit, good, 2) == []
    bad = [row | change for row in good[:count]] + good[count:]
    assert [check.name for check in checks.of_rows(audit, bad, 2)] == [name]


@pytest.mark.parametrize("eps", [0.0, 0.9 / 255])
def test_less_than_a_level_is_no_lack_of_gradients(audit: Audit, eps: float) -> None:
    still = [GOOD | {"linf": [0.0]} for _ in range(20)]
    told = ["no_room"] if eps else []
    assert [check.name for check in checks.of_rows(replace(audit, eps=eps), still, 2)] == told
    assert [check.name for check in checks.of_rows(replace(audit, eps=None), still, 2)] == ["zero_gradients"]
    assert [check.name for check in checks.of_rows(replace(audit, eps=1 / 255), still, 2)] == ["zero_gradients"]


def test_poisons_are_counted_and_not_trials(audit: Audit) -> None:
    rows = [GOOD | {"linf": [8 / 255] * 4} for _ in range(20)]
    rows[0] = GOOD | {"linf": [8 / 255, 0.0, 9 / 255, 8 / 255]}
    said = {check.name: check.message for check in checks.of_rows(audit, rows, 2)}
    assert said["zero_gradients"].startswith("1 of 80 poisons did not move")
    assert said["beyond_budget"].startswith("1 of 80 poisons are beyond")


def test_a_run_gone_on_with_other_versions_says_so(audit: Audit) -> None:
    """Not where it was only summed up again."""
    mine = replace(audit, targets="all")
    assert "mixed_versions" not in {check["name"] for check in run_audit(mine)["checks"]}
    plan, rows = mine.out / "plan.json", journal.rows(mine.out / "journal.jsonl")
    held = json.loads(plan.read_bytes())
    plan.write_text(json.dumps(held | {"versions": held["versions"] | {"torch": "0.1"}}))
    assert "mixed_versions" not in {check["name"] for check in run_audit(mine)["checks"]}
    first = [journal.encode(row) for row in rows if row["group"] == 0]
    (mine.out / "journal.jsonl").write_bytes(b"".join(first))
    said = {check["name"]: check["message"] for check in run_audit(mine)["checks"]}
    now = held["versions"]["torch"]
    assert said["mixed_versions"].startswith("2 groups were run with other versions")
    assert said["mixed_versions"].endswith(f"(torch 0.1 and {now})")


def test_few_trials_are_said(audit: Audit) -> None:
    assert [check.name for check in checks.of_rows(audit, [dict(GOOD)] * 9, 2)] == ["too_few_trials"]
    assert checks.of_rows(audit, [dict(GOOD)] * 10, 2) == []


def test_pictures_on_both_sides_are_said(tmp_path: Path, cache: Path, audit: Audit) -> None:
    root = toy.write_folder(tmp_path / "leaky")
    for path in (root / "train" / "red").iterdir():
        (root / "val" / "red" / f"copy-{path.name}").write_bytes(path.read_bytes())
    mine = replace(audit, data=root, target_class="blue", targets=2)
    said = {check["name"]: check["message"] for check in run_audit(mine)["checks"]}
    assert said["duplicates_across_splits"].startswith("12 training pictures")
    assert "base_is_a_test_picture" in said
