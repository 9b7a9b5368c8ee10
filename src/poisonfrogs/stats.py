"""Intervals for the rates we report."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927); (0, 1) when nothing was tried.

    >>> [round(x, 4) for x in wilson(16, 16)]
    [0.8064, 1.0]
    """
    from scipy.stats import binomtest

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_of_rate(rate: float, n: float) -> tuple[float, float]:
    """The same for a rate that need not be a whole number of n > 0, nor n a whole number.

    >>> [round(x, 4) for x in wilson_of_rate(0.25, 20)]  # 5 of 20
    [0.1119, 0.4687]
    """
    spread = NormalDist().inv_cdf(0.975) ** 2 / n
    centre, half = rate + spread / 2, (spread * rate * (1 - rate) + spread**2 / 4) ** 0.5
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def rounded(values: Any) -> list[float]:
    """Numbers as a journal holds them: six places, which JSON gives back as they were.

    >>> rounded([1 / 3, 1])
    [0.333333, 1.0]
    """
    return [round(float(value), 6) for value in values]
