"""Checks, each made to fire and to be silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import toy
from poisonfrogs import checks
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
    assert checks.of_rows(replace(audit, eps=eps), still, 2) == []
    assert [check.name for check in checks.of_rows(replace(audit, eps=None), still, 2)] == ["zero_gradients"]
    assert [check.name for check in checks.of_rows(replace(audit, eps=1 / 255), still, 2)] == ["zero_gradients"]


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
