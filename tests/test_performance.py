"""The tables of docs/performance.md are those of the committed results, and the results reach what they are to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
Result = dict[str, Any]


def result(name: str) -> Result:
    held: Result = json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())
    return held


def fell(row: Result) -> str:
    n = row.get("n_eligible", row.get("n"))
    low, high = row["ci95"]
    return f"{row['n_success']} of {n} ({100 * low:.1f} to {100 * high:.1f} %)"


def lines_of_all(found: Result) -> list[str]:
    """Both directions, and all."""
    rows = [*found["by_direction"].items(), ("all", found)]
    return [f"| {name} | {fell(row)} |" for name, row in rows]


def lines_of_storage(found: Result) -> list[str]:
    """A line for what was crafted and seen; a cell a way to store."""
    cells = found["cells"]
    lines: dict[tuple[Any, ...], list[str]] = {}
    for cell in cells:
        lines.setdefault(tuple(cell[key] for key in ("crafted_for", "robust", "linf", "view")), []).append(fell(cell))
    seen = {"squash": "whole picture", "model": "256, crop 224"}
    return [
        f"| {seen[crafted]} | {f'`{robust}`' if robust else ''} | {linf}/255 | {seen[view]} | {' | '.join(found)} |"
        for (crafted, robust, linf, view), found in lines.items()
    ]


def lines_of_profile(found: Result) -> list[str]:
    return [
        f"| {name} | {found['seconds'][name]:.1f} s | {100 * share:.1f} % |" for name, share in found["share"].items()
    ]


TABLES: dict[str, Callable[[Result], list[str]]] = {
    "dogfish_all": lines_of_all,
    "storage": lines_of_storage,
    "profile": lines_of_profile,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_its_benchmark_s(name: str) -> None:
    text = (ROOT / "docs/performance.md").read_text().splitlines()
    lines = TABLES[name](result(name))
    assert lines
    for line in lines:
        assert line in text, line


def rates(held: Any) -> list[Result]:
    """Every place in a result that holds a rate."""
    if isinstance(held, list):
        return [one for part in held for one in rates(part)]
    if not isinstance(held, dict):
        return []
    return [held] * ("success_rate" in held) + [one for part in held.values() for one in rates(part)]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.name)
def test_a_rate_has_its_number_and_its_interval(path: Path) -> None:
    for row in rates(json.loads(path.read_text())):
        low, high = row["ci95"]
        n = row.get("n_eligible", row.get("n"))
        assert n is not None
        if n:
            assert 0 <= low <= row["success_rate"] <= high <= 1


def test_all_targets_of_dogfish() -> None:
    found = result("dogfish_all")
    assert found["n_trials"] == 782
    assert found["success_rate"] >= 0.99
    assert found["median_confidence"] >= 0.995
    assert found["control_rate"] <= 0.005
    assert found["mean_accuracy_drop"] <= 0.002
    assert found["median_passes"] <= 40
    assert found["auditor"]["agreement"] >= 0.95
    if found["survivors"]:
        assert found["felled_by"]
