"""The numbers that docs/match.md and docs/provenance.md give are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
STORED = ("png", "jpeg:95", "jpeg:85", "jpeg:75")
ONE_MIRRORED = tuple(f"{store} one mirrored" for store in STORED)
LOST = ("png cropped by a sixteenth", "png rotated by 5 degrees")


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results" / name).read_text())


def document(name: str) -> str:
    return " ".join((ROOT / "docs" / name).read_text().split())


def table_of_poisons() -> list[str]:
    """A row a set of poisons; a cell adds up those stored as they are and mirrored."""
    rows = result("match_recall.json")["poisons"]
    lines = []
    for name in ("cifar-linf", "cifar-mark", "dogfish-linf", "dogfish-mark"):
        cells = [[rows[f"{name} {store}"], rows[f"{name} {store} mirrored"]] for store in STORED]
        cells += [[rows[f"{name} {way}"]] for way in LOST]
        said = [f"{sum(one['found'] for one in cell)} of {sum(one['n'] for one in cell)}" for cell in cells]
        lines.append(f"| `{name}` | {' | '.join(said)} |")
    return lines


def test_the_table_of_poisons_is_the_benchmark_s() -> None:
    text = document("match.md")
    for line in table_of_poisons():
        assert line in text, line


@pytest.mark.parametrize(("kind", "share"), [("linf", 0.99), ("mark", 0.95)])
def test_enough_bases_are_found(kind: str, share: float) -> None:
    rows = {name: row for name, row in result("match_recall.json")["poisons"].items() if kind in name.split()[0]}
    rows = {name: row for name, row in rows.items() if not name.endswith(LOST)}
    assert len(rows) == {"linf": 16, "mark": 24}[kind]
    assert sum(row["found"] for row in rows.values()) >= share * sum(row["n"] for row in rows.values())


def test_blends_of_which_one_picture_is_mirrored_are_the_document_s() -> None:
    rows, text = result("match_recall.json")["poisons"], document("match.md")
    for name, what in (("cifar-mark", "CIFAR-10"), ("dogfish-mark", "dog against fish")):
        mine = [rows[f"{name} {way}"] for way in ONE_MIRRORED]
        found, n = (sum(row[key] for row in mine) for key in ("found", "n"))
        right = sum(row["other_right"] for row in mine)
        assert f"{found} of {n} among {what} ({right} with the right other picture)" in text
        assert all(row["blends"] == row["found"] for row in mine)


def test_false_alarms_are_few_and_are_the_document_s() -> None:
    found, text = result("match_recall.json")["false_alarms"], document("match.md")
    for name, what in (("cifar10", "CIFAR-10"), ("dogfish", "dog against fish")):
        one = found[name]
        assert one["false_rate"] <= 0.001
        said = f"{what}: {len(one['called_copies'])} of {one['n']:,} called copies, {len(one['false'])} of them falsely"
        assert said in text, said


def test_the_times_of_sign_and_verify_are_the_document_s() -> None:
    measured, text = result("provenance_scale.json"), document("provenance.md")
    median, faster = (measured["model_signing"][key] for key in ("median_seconds", "times_faster"))
    for what in ("sign", "verify"):
        cells = [f"{median[f'{program} {what}']:.2f} s" for program in ("poisonfrogs", "model-signing")]
        line = f"| `{what}`, 20,000 files | {' | '.join(cells)} | {faster[what]:.1f} |"
        assert line in text, line
        assert faster[what] >= 3
        for count in (10_000, 100_000, 1_000_000):
            one = measured["scale"][f"{what} {count}"]
            cells = [f"{one['seconds']:.1f} s", f"{one['us_per_file']:.0f} µs", f"{one['peak_rss_mib']} MiB"]
            line = f"| `{what}`, {count:,} files | {' | '.join(cells)} |"
            assert line in text, line
            assert one["peak_rss_mib"] < 500


@pytest.mark.parametrize("what", ["sign", "verify"])
def test_a_million_files_take_no_longer_each_than_a_hundred_thousand(what: str) -> None:
    some, many = (result("provenance_scale.json")["scale"][f"{what} {count}"] for count in (100_000, 1_000_000))
    assert many["us_per_file"] < 1.25 * some["us_per_file"]


def test_the_time_and_memory_of_match_are_the_document_s() -> None:
    measured, text = result("match_scale.json")["sizes"], document("match.md")
    assert measured[-1]["n"] == measured[-1]["against"] == 50_000
    for one in measured:
        line = f"| {one['n']:,} against {one['against']:,} | {one['seconds']:.0f} s | {one['peak_rss_mib']} MiB |"
        assert line in text, line
