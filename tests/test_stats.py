"""Intervals against published values and the formula written out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poisonfrogs.stats import wilson


def by_hand(k: int, n: int, z: float) -> tuple[float, float]:
    """Wilson (1927): (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    p = k / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17, table I, method 3: the score interval
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=5.1e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_formula(counts):
    k, n = counts
    low, high = wilson(k, n)
    assert (low, high) == pytest.approx(by_hand(k, n, 1.959963984540054), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1
    mirrored = wilson(n - k, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_the_confidence():
    assert wilson(3, 10, 0.99) == pytest.approx(by_hand(3, 10, 2.5758293035489004), abs=1e-9)


def test_nothing_tried_tells_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [1, 16, 1000])
def test_none_and_all(n):
    z2 = 1.959963984540054**2
    assert wilson(0, n) == pytest.approx((0.0, z2 / (n + z2)), abs=1e-12)
    assert wilson(n, n) == pytest.approx((n / (n + z2), 1.0), abs=1e-12)
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0


def test_plain_floats_for_json():
    assert [type(end) for end in wilson(3, 7)] == [float, float]
