"""How long work says it takes."""

from __future__ import annotations

import time

import pytest

from poisonfrogs.progress import foretelling

Told = list[tuple[str, int, int]]


def told(monkeypatch: pytest.MonkeyPatch, total: int, *parts: tuple[float, int]) -> Told:
    """What is said of parts that end at these seconds and are so large."""
    now, said = 100.0, Told()
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    tell = foretelling(lambda *one: said.append(one), "hashing", total)
    for seconds, more in parts:
        now = 100 + seconds
        tell(more)
    return said


def test_after_a_second_it_is_said_once_how_long_all_of_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 1000, (0.5, 100), (2, 100), (9, 700), (10, 100)) == [
        ("hashing", 100, 1000),
        ("hashing (about 10 s in all)", 200, 1000),
        ("hashing (about 10 s in all)", 900, 1000),
        ("hashing (about 10 s in all)", 1000, 1000),
    ]


@pytest.mark.parametrize("parts", [[(0.9, 1000)], [(5.0, 1000)], [(5.0, 0)], [(5.0, 1001)]])
def test_nothing_is_said_of_what_is_over_or_has_not_begun(
    parts: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, 1000, *parts) == [("hashing", parts[0][1], 1000)]
