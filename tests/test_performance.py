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
    return f"{row['n_success']} of {n} ({100 * low:.0f} to {100 * high:.0f} %)"


def lines_of_all(found: Result) -> list[str]:
    """Both directions, and all."""
    rows = [*found["by_direction"].items(), ("all", found)]
    return [f"| {name} | {fell(row)} |" for name, row in rows]


def lines_of_passes(found: Result) -> list[str]:
    return [
        f"| {name} | {fell(row)} | {row['median_confidence']:.4f} | {row['median_passes']:g} | {row['mean_passes']} |"
        for name, row in found["rows"].items()
    ]


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


def lines_of_recipe(found: Result) -> list[str]:
    by_head: dict[str, list[Result]] = {}
    for cell in found["cells"]:
        by_head.setdefault(cell["head"], []).append(cell)
    return [
        f"| `{head}` | {' | '.join(f'{fell(one)} | {accuracy(one)}' for one in cells)} |"
        for head, cells in by_head.items()
    ]


def accuracy(row: Result) -> str:
    return f"{row['accuracy']:.4f}"


def lines_of_peer(found: Result) -> list[str]:
    ours, equal = found["ours"], found["ours_at_the_peers_linf"]
    lines = [
        f"| poisonfrogs{name} | {fell(row)} | {row['median_distance']:.2f} | {row['median_linf']:.3f} | {row['seconds']:.0f} s |"
        for name, row in (("", ours), (", as loose as the peer", equal))
    ]
    for one in found["peer_settings"]:
        for name, key in (("", "as_it_left_it"), (", clipped to 8/255", "clipped_to_8_255")):
            row = one[key]
            lines.append(
                f"| peer, {one['setting']}{name} | {fell(row)} | {row['median_distance']:.2f} | {row['median_linf']:.3f} | {one['total_seconds']:.0f} s |"
            )
    return lines


def lines_of_profile(found: Result) -> list[str]:
    return [
        f"| {name} | {found['seconds'][name]:.1f} s | {100 * share:.1f} % |" for name, share in found["share"].items()
    ]


def lines_of_bases(found: Result) -> list[str]:
    return [
        f"| {name} | {fell(row)} | {row['median_confidence']:.4f} | {round(row['control_rate'] * row['n_trials'])} of {row['n_trials']} "
        f"| {100 * row['mean_accuracy_drop']:.2f} | {row['median_passes']:g} | {255 * row['median_linf']:.0f}/255 |"
        for name, row in found["rows"].items()
    ]


TABLES: dict[str, Callable[[Result], list[str]]] = {
    "dogfish_all": lines_of_all,
    "passes": lines_of_passes,
    "storage": lines_of_storage,
    "recipe": lines_of_recipe,
    "peer_collision": lines_of_peer,
    "profile": lines_of_profile,
    "bases": lines_of_bases,
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
    assert found["worst_accuracy_drop"] <= 0.005
    assert found["median_passes"] <= 40
    assert found["auditor"]["agreement"] >= 0.95
    if found["survivors"]:
        assert found["felled_by"]
