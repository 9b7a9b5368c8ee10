"""Checks, each made to fire and to be silent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import toy
from poisonfrogs import checks, journal
from poisonfrogs.audit import run_audit
from poisonfrogs.plan import Audit
from poisonfrogs.types import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

GOOD = {
    "eligible": True, "failed": False, "failure": None, "passes": 9, "linf": [8 / 255], "control_accuracy": 0.99,
    "accuracy": 0.99, "certified": None,
}  # fmt: skip

LABELS = np.arange(100) % 2  # of the test pictures


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("ineligible_targets", {"eligible": False}, 3),
        ("failed_trials", {"failed": True, "failure": "NaN"}, 1),
        ("zero_gradients", {"linf": [0.0]}, 1),
        ("beyond_budget", {"linf": [9 / 255]}, 1),
        ("collapsed_accuracy", {"accuracy": 0.9}, 1),
        ("collapsed_accuracy", {"accuracy": 0.54, "control_accuracy": 0.54}, 20),
    ],
)
def test_a_check_fires_for_its_reason_only(name: str, change: dict, count: int, audit: Audit) -> None:
    good = [dict(GOOD) for _ in range(20)]
    assert checks.of_rows(audit, good, LABELS) == []
    bad = [row | change for row in good[:count]] + good[count:]
    assert [check.name for check in checks.of_rows(audit, bad, LABELS)] == [name]


@pytest.mark.parametrize(
    ("accuracy", "labels"), [(0.6, LABELS), (0.94, np.arange(16) % 2), (0.92, np.arange(100) < 90)]
)
def test_a_weak_classifier_and_one_picture_of_a_few_are_no_collapse(
    audit: Audit, accuracy: float, labels: np.ndarray
) -> None:
    rows = [GOOD | {"control_accuracy": accuracy, "accuracy": accuracy - 1 / len(labels)} for _ in range(20)]
    assert checks.of_rows(audit, rows, labels.astype(np.int64)) == []


class Still(toy.Toy):
    """A network whose gradient is 0 everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach()) + 0 * x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize("store", ["png", "jpeg:90"])
def test_what_an_encoder_moves_has_not_moved(audit: Audit, store: str) -> None:
    summary = run_audit(replace(audit, model=f"{__name__}:Still", store=store))
    said = {check["name"]: check["message"] for check in summary["checks"]}
    assert said["zero_gradients"].startswith("6 of 6 poisons did not move")


@pytest.mark.parametrize(
    ("head", "same"),
    [
        *((text, True) for text in ("logistic:100", "logistic:1e2", "logistic:100.0")),
        *((text, False) for text in ("logistic:1", "paper", "certified:radius")),
    ],
)
def test_the_surrogate_s_own_recipe_is_known_in_any_spelling(audit: Audit, head: str, same: bool) -> None:
    fired = [check.name for check in checks.of_rows(replace(audit, head=head), [dict(GOOD)] * 20, LABELS)]
    assert fired == ["surrogate_is_the_judge"] * same


@pytest.mark.parametrize("eps", [0.0, 0.9 / 255])
def test_less_than_a_level_is_no_lack_of_gradients(audit: Audit, eps: float) -> None:
    still = [GOOD | {"linf": [0.0]} for _ in range(20)]
    told = ["no_room"] if eps else []
    assert [check.name for check in checks.of_rows(replace(audit, eps=eps), still, LABELS)] == told
    assert [check.name for check in checks.of_rows(replace(audit, eps=None), still, LABELS)] == ["zero_gradients"]
    assert [check.name for check in checks.of_rows(replace(audit, eps=1 / 255), still, LABELS)] == ["zero_gradients"]


def test_poisons_are_counted_and_not_trials(audit: Audit) -> None:
    rows = [GOOD | {"linf": [8 / 255] * 4} for _ in range(20)]
    rows[0] = GOOD | {"linf": [8 / 255, 0.0, 9 / 255, 8 / 255]}
    said = {check.name: check.message for check in checks.of_rows(audit, rows, LABELS)}
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
    assert [check.name for check in checks.of_rows(audit, [dict(GOOD)] * 9, LABELS)] == ["too_few_trials"]
    assert checks.of_rows(audit, [dict(GOOD)] * 10, LABELS) == []


def test_pictures_on_both_sides_are_said(tmp_path: Path, cache: Path, audit: Audit) -> None:
    root = toy.write_folder(tmp_path / "leaky")
    for path in (root / "train" / "red").iterdir():
        (root / "val" / "red" / f"copy-{path.name}").write_bytes(path.read_bytes())
    mine = replace(audit, data=root, target_class="blue", targets=2)
    said = {check["name"]: check["message"] for check in run_audit(mine)["checks"]}
    assert said["duplicates_across_splits"].startswith("12 training pictures")
    assert "base_is_a_test_picture" in said


def test_a_picture_that_is_trained_on_is_no_target(tmp_path: Path, cache: Path, audit: Audit) -> None:
    """Its right label among the training pictures would hold it where it is."""
    root = toy.write_folder(tmp_path / "leaky", train=12, test=4)
    for path in (root / "train" / "red").iterdir():
        (root / "val" / "red" / f"copy-{path.name}").write_bytes(path.read_bytes())
    mine = replace(audit, data=root, targets="all")
    run_audit(mine)
    attacked = {row["target_id"] for row in journal.rows(mine.out / "journal.jsonl")}
    assert len(attacked) == 8
    assert not any("copy-" in name for name in attacked)
    with pytest.raises(InputError, match=r"copy-00.png is a copy of the training picture train/red/00.png"):
        run_audit(replace(mine, out=tmp_path / "named", target=("val/red/copy-00.png",)))


def test_an_auditor_that_is_the_network_itself_is_said(audit: Audit) -> None:
    said = {check["name"] for check in run_audit(replace(audit, auditor=audit.model))["checks"]}
    assert "auditor_is_the_network" in said
